"""The house stands: who may import whom, what the method keeps its hands off, how files are read and written."""

import ast
import doctest
import importlib
import re

import pytest

from helpers import ROOT
from helpers.imports import imports

# From the ground up. A module imports from its own floor and from those below it.
FLOORS = [
    ["dsrg.errors"],
    ["dsrg.files", "dsrg.runtime"],
    ["dsrg.params"],
    ["dsrg.method"],
    ["dsrg.data"],
    ["dsrg.project"],
    ["dsrg.sources"],
    ["dsrg.artifacts"],
    ["dsrg.networks"],
    ["dsrg.inference"],
    ["dsrg.evaluation"],
    ["dsrg.training"],
    ["dsrg.figures"],
    ["dsrg.predictor", "dsrg.preflight", "dsrg.stage"],
    ["dsrg.doctor", "dsrg.inspect"],
    ["dsrg.advise"],
    ["dsrg.commands"],
]
HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}

METHOD_OUTSIDE = {"cv2", "dsrg", "numpy", "pydensecrf", "torch"}
METHOD_OUTSIDE |= {"collections", "dataclasses", "functools", "math", "typing"}
OPENERS = {"open", "Path", "imread", "imwrite", "load", "save", "fromfile", "tofile", "loadtxt", "savetxt"}


def modules(folder: str) -> dict[str, str]:
    """Module name -> file, of every Python file below a folder of the project."""
    files = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))
    return {file.with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): str(file) for file in files}


MODULES = modules("dsrg") | modules("stages")
METHOD = sorted(name for name in MODULES if name.startswith("dsrg.method"))


def floor(module: str) -> str | None:
    """dsrg.data of dsrg.data.images; None of the root package, which every import names and nothing stands on."""
    return ".".join(module.split(".")[:2]) if "." in module else None


def complaint(module: str, imported: str) -> str | None:
    """What is wrong with `module` naming `imported` in an import, if anything."""
    own, other = floor(module), floor(imported)
    if other is None or other == own:
        return None
    if module.startswith("stages."):
        allowed = other in HEIGHT and other != "dsrg.commands"
    elif other == "dsrg.stage":
        allowed = own == "dsrg.commands"
    elif (own, other) == ("dsrg.method", "dsrg.params"):
        allowed = False
    else:
        allowed = HEIGHT.get(other, len(FLOORS)) <= HEIGHT[own]
    return None if allowed else f"{module} must not import {imported}"


def openings(source: str) -> list[str]:
    """Names by which a source could reach a file: calls, attributes and imports."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.Attribute):
            found.append(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found += [alias.name for alias in node.names]
    return sorted(OPENERS.intersection(found))


def packages(source: str) -> set[str]:
    """Top-level packages that a source imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


# Floors


def test_every_module_has_a_floor():
    homeless = [name for name in MODULES if name.startswith("dsrg.") and floor(name) not in HEIGHT]
    assert not homeless, f"give them a place in FLOORS: {homeless}"


def test_imports_point_downwards():
    named = [(module, name) for module, file in MODULES.items() if "." in module for name in imports(file)]
    assert len(named) > 100
    assert [line for line in (complaint(*pair) for pair in named) if line] == []


def test_the_root_package_imports_nothing_of_the_project():
    """Whatever it imported, every worker process and every stage would depend on."""
    assert not imports("dsrg/__init__.py") and not imports("stages/__init__.py")


# The method: tensors in, tensors out


@pytest.mark.parametrize("module", METHOD)
def test_the_method_opens_no_file_and_knows_no_network(module):
    source = (ROOT / MODULES[module]).read_text(encoding="utf-8")
    assert openings(source) == []
    assert packages(source) <= METHOD_OUTSIDE
    assert {floor(name) for name in imports(MODULES[module])} <= {None, "dsrg.errors", "dsrg.method"}


# Examples in docstrings

WITH_EXAMPLES = [name for name, file in MODULES.items() if ">>> " in (ROOT / file).read_text(encoding="utf-8")]


@pytest.mark.parametrize("module", sorted({*WITH_EXAMPLES} - {"dsrg.predictor"}))  # see tests/test_predict.py
def test_the_examples_in_docstrings_are_true(module):
    outcome = doctest.testmod(importlib.import_module(module))
    assert outcome.attempted and not outcome.failed


def test_the_heart_of_the_method_has_examples():
    assert {"dsrg.method.growing", "dsrg.method.losses"} <= {*WITH_EXAMPLES}


# Files that could run code. Python's own ways are ruff's to find (its rules S in pyproject.toml), these the libraries'.

MODULES_THAT_RUN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
SAFE = {  # functions -> what a call has to say
    r"torch\.load|.*\.get_state_dict|.*load_state_dict_from_url": "weights_only=True",
    r"np\.(load|loadtxt|genfromtxt|fromregex)": "allow_pickle=False",
    r"(.*\.)?YAML": "typ='safe'",
    r"torch\.(jit|export)\.load|torch\.package\..*": "not be there",
}
MAY_RUN = {
    "pickle": "dsrg/artifacts/safe_pickle.py",  # Python's reader, to which it leaves ten names
    "torch.export.load(file)": "dsrg/inference/export.py",  # of the file that `dsrg export` has just written
    "YAML()": "dsrg/figures/report.py",  # only writes, in the order of the params
}


def dangers(tree: ast.AST) -> list[str]:
    """What in a source could run code out of a file: imports and calls, as text."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        ast.unparse(call)
        for call in calls
        for function, word in SAFE.items()
        if re.fullmatch(function, ast.unparse(call.func)) and word not in map(ast.unparse, call.keywords)
    ] + sorted(packages(ast.unparse(tree)) & MODULES_THAT_RUN)


def test_nothing_in_the_source_runs_what_a_file_says():
    found = {file: dangers(ast.parse((ROOT / file).read_text(encoding="utf-8"))) for file in MODULES.values()}
    assert {line: file for file, lines in found.items() for line in lines} == MAY_RUN


# Nothing half-written under a final name

WRITERS = {"write_text", "write_bytes", "imwrite", "savez", "savez_compressed", "savetxt", "tofile", "savefig"}
WRITE_ELSEWHERE = {
    "dsrg/artifacts/predictions.py": "into the folder that its caller fills by atomic_folder",
    "dsrg/runtime/lock.py": "the pid in a lock's own file",
    "dsrg/sources/shapes.py": "into the folder that draw_dataset fills by atomic_folder",
    "dsrg/sources/validation.py": "into the folder of masks that its callers fill by atomic_folder",
    "dsrg/training/curves.py": "lines added to unfinished work, which is cut to the last checkpoint's when it goes on",
}


def bare_writes(tree: ast.AST) -> list[str]:
    """Calls that write a file which no `with` of the source has as an atomic or temporary one."""
    nodes, safe = [*ast.walk(tree)], {"buffer"}
    for item in (item for node in nodes if isinstance(node, ast.With) for item in node.items):
        if item.optional_vars and re.match(r"atomic_f|_Unfailing|open|gzip", ast.unparse(item.context_expr)):
            safe.add(ast.unparse(item.optional_vars))  # an open file was looked at where it was opened
    calls = [call for call in nodes if isinstance(call, ast.Call) and writes(call)]
    return [ast.unparse(call) for call in calls if safe.isdisjoint(re.findall(r"\w+", target(call)))]


def target(call: ast.Call) -> str:
    function = ast.unparse(call.func)
    return function if function.endswith(("write_text", "write_bytes")) else ast.unparse(call)


def writes(call: ast.Call) -> bool:
    function = ast.unparse(call.func)
    values = [node.value for node in [*call.args, *(word.value for word in call.keywords)] if hasattr(node, "value")]
    if re.search(r"(\bopen|File)$", function):
        return any(re.fullmatch(r"[wax].{0,3}|r.?\+.?", str(value)) for value in values)
    return function in ("np.save", "torch.save") or "." in function and function.split(".")[-1] in WRITERS


def test_files_are_written_atomically():
    found = {file: bare_writes(ast.parse((ROOT / file).read_text(encoding="utf-8"))) for file in MODULES.values()}
    assert {file for file, calls in found.items() if calls} == {*WRITE_ELSEWHERE}, found


@pytest.mark.parametrize(
    "source",
    ["open(p, 'w')", "p.open(mode='x')", "p.write_text(t)", "cv2.imwrite(p, i)", "np.save(p, a)", "h5py.File(p, 'r+')"],
)
def test_a_bare_write_is_noticed(source):
    assert bare_writes(ast.parse(source)) and not bare_writes(ast.parse(f"with atomic_file(path) as p: {source}"))
