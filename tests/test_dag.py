"""dvc.yaml says what the stages really do: files of code, params, data."""

import re
from pathlib import Path

import pytest

from dsrg.params import Params, load_params
from helpers import ROOT
from helpers.dvc_yaml import FILE, STAGES, filled, outs
from helpers.imports import closure

# What can change no byte of an out: changed, it reruns nothing, and goes on with a training that was stopped.
PLUMBING = ("dsrg/runtime/", "dsrg/__init__.py", "dsrg/errors.py", "dsrg/project.py", "dsrg/stage.py")


def code_deps(stage: dict) -> list[str]:
    return [dep for dep in stage["deps"] if dep.startswith(("dsrg/", "stages/"))]


def data_deps(stage: dict) -> set[str]:
    return {filled(dep) for dep in stage["deps"]} - {*code_deps(stage)}


def listing(path: str) -> str:
    """How dvc.yaml lists a file of code: by itself in the rooms whose files are the method, else its room.

    >>> listing("dsrg/method/growing.py"), listing("dsrg/data/index.py"), listing("dsrg/params.py")
    ('dsrg/method/growing.py', 'dsrg/data', 'dsrg/params.py')
    """
    folder = str(Path(path).parent)
    by_file = [f"dsrg/{room}" for room in ("method", "training", "evaluation", "figures")]
    return path if folder in ("dsrg", "stages", *by_file) else folder


@pytest.mark.parametrize("name", STAGES)
def test_code_deps_of_a_stage_are_its_import_closure(name):
    files = [path for path in closure(f"stages.{name}") if not path.startswith(PLUMBING)]
    pages = [path for file in files if (ROOT / (path := file.removesuffix("py") + "html")).exists()]  # beside the code
    needed = sorted({listing(path) for path in files + pages})
    said = "dvc.yaml should list:\n" + "\n".join(f"      - {path}" for path in needed)
    assert code_deps(STAGES[name]) == needed, said


def test_the_list_of_stages_is_short():
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 430


@pytest.mark.parametrize("name", STAGES)
def test_params_of_a_stage_are_what_it_reads(name):
    """Read = the longest chains `params.a.b` in the stage's source, where a local name may stand for a section."""
    source = (ROOT / "stages" / f"{name}.py").read_text()
    read, without = param_chains(source), left_out(source)
    declared = set(STAGES[name].get("params", []))
    leaves_read = set().union(*(leaves(chain) - without.get(chain, set()) for chain in read))
    leaves_declared = set().union(*(leaves(key) for key in declared))
    if "network_of" in source:
        leaves_read |= {key for key in leaves_declared if key.startswith("network.")}
    assert leaves_read - leaves_declared == set(), "read but not declared in dvc.yaml"
    # `- data` of evaluate has the root in it: data that has moved is evaluated anew, not trained on anew
    assert leaves_declared - leaves_read - {"data.root"} == set(), "declared in dvc.yaml but never read"


def param_chains(source: str) -> set[str]:
    """Dotted params that a stage's source reads, such as `seeds.fg_thresh`, or `crf.train` for a whole section.

    >>> sorted(param_chains("params, cam = stage.params, stage.params.cam\\nuse(cam.steps, params.crf.train)"))
    ['cam.steps', 'crf.train']
    >>> param_chains("use(stage.params.model_dump())")  # all of them
    {''}
    """
    source = re.sub(r"^(from|import) .*$", "", source, flags=re.MULTILINE)
    names = {"stage.params": ""}
    assignment = re.compile(r"^ *([\w, ]+) = (stage\.params[\w., ]*)$", re.MULTILINE)
    for left, right in assignment.findall(source):
        for name, value in zip(left.split(", "), right.split(", "), strict=True):
            names[name] = value.removeprefix("stage.params").removeprefix(".")
    chains = set()
    for name, section in names.items():
        for rest in re.findall(rf"(?<![\w.]){re.escape(name)}((?:\.\w+)*)", assignment.sub("", source)):
            parts = [part for part in [*section.split("."), *rest.split(".")] if part]
            chain = parts[: parts.index("model_dump")] if "model_dump" in parts else parts
            if chain[:1] == ["network_of"]:  # `network`, and the training's own part of it; train_cam needs four keys
                chain = ["network", "backbone"]
            chains |= {".".join(chain)} if parts else set()
    return chains


def left_out(source: str) -> dict[str, set[str]]:
    """Sections that a stage hands over whole but for some params, and these params.

    >>> left_out('use(stage.params.data.model_dump(exclude={"size"}))')
    {'data': {'data.size'}}
    >>> left_out('tell(stage.params.model_dump(exclude={"data": {"root"}}))')
    {'': {'data.root'}}
    """
    if 'stage.params.model_dump(exclude={"data": {"root"}})' in source:
        return {"": {"data.root"}}
    sections = re.findall(r"stage\.params\.([\w.]+)\.model_dump\(exclude=\{([^}]*)\}", source)
    return {section: {f"{section}.{key}" for key in re.findall(r"\w+", keys)} for section, keys in sections}


def leaves(key: str) -> set[str]:
    """All parameters under a dotted key: seed -> {seed}, grow -> {grow.enabled, ...}; all there are under none."""
    values, path = DEFAULTS, []
    for part in filter(None, key.split(".")):
        if not isinstance(values, dict):
            break
        values = values[part]
        path.append(part)
    if not isinstance(values, dict):
        return {".".join(path)}
    return set().union(*(leaves(".".join([*path, child])) for child in values))


DEFAULTS: dict = load_params(ROOT / "params.yaml").model_dump()


def test_every_parameter_is_read_by_some_stage():
    declared = set().union(*(leaves(key) for stage in STAGES.values() for key in stage.get("params", [])))
    unread = set().union(*(leaves(section) for section in Params.model_fields)) - declared
    # data.root reaches dvc.yaml as a dep; what training sees of it is the index with its checksums
    assert unread - {"data.root"} == set()


def test_only_audit_and_evaluate_reach_ground_truth():
    readers = {name for name, stage in STAGES.items() if FILE["ground_truth"] in data_deps(stage)}
    assert readers == {"audit", "evaluate"}
    importers = {name for name in STAGES if "read_ground_truth" in (ROOT / "stages" / f"{name}.py").read_text()}
    assert importers == {"audit", "evaluate"}


def test_points_reach_make_seeds_alone():
    """And the page of the run, which tells all params."""
    assert [name for name, stage in STAGES.items() if FILE["points"] in data_deps(stage)] == ["make_seeds"]
    readers = {name for name, stage in STAGES.items() if {"data", "data.points"} & {*stage.get("params", [])}}
    assert readers == {"make_seeds", "evaluate"}


def test_nothing_depends_on_audit_and_evaluate():
    used = set().union(*(data_deps(stage) for stage in STAGES.values()))
    assert used & (outs(STAGES["audit"]) | outs(STAGES["evaluate"])) == set()


def test_every_data_dep_is_somebodys_out():
    made = set().union(*(outs(stage) for stage in STAGES.values()))
    by_people = {"${data.root}", FILE["points"]}
    needed = set().union(*(data_deps(stage) for stage in STAGES.values())) - by_people
    assert needed - made == set()


def test_growing_thresholds_touch_train_dsrg_and_the_page_of_the_run_only():
    def reads_grow(stage: dict) -> bool:
        return any(key.split(".")[0] == "grow" for key in stage.get("params", []))

    readers = [name for name, stage in STAGES.items() if reads_grow(stage)]
    assert readers == ["train_dsrg", "evaluate"]


@pytest.mark.parametrize("name", STAGES)
def test_stage_is_thin(name):
    assert len((ROOT / "stages" / f"{name}.py").read_text().splitlines()) <= 80
