"""dvc.yaml says what the stages really do: files of code, params, data."""

from pathlib import Path

import pytest

from dsrg.params import Params, load_params
from dsrg.stage import load_stage
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
    assert len((ROOT / "stages" / f"{name}.py").read_text().splitlines()) <= 60


def test_a_stage_is_given_the_params_that_it_declares_and_no_other(monkeypatch):
    monkeypatch.chdir(ROOT)
    params = load_stage("retrain").params
    assert params.pseudo_labels.scales and not hasattr(params.pseudo_labels, "overlays")
    assert not hasattr(params, "grow")
    with pytest.raises(AttributeError, match="grow"):
        params.grow  # noqa: B018
