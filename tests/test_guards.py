"""What the source must not do, whoever adds to it: write past `dsrg.files`, or read a file that could run code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("dsrg", "stages") for path in (ROOT / folder).rglob("*.py"))

WHOLE = {"atomic_file", "atomic_folder"}
WRITING = {
    *("write_bytes", "write_text", "symlink_to", "hardlink_to", "rename", "replace", "tofile", "savetxt"),
    *("save", "savez", "savez_compressed", "savefig", "imwrite", "copy", "copy2", "copyfile", "copytree", "move"),
    *("extractall", "extract", "extract_archive", "download_url", "urlretrieve"),
}

# Functions that write without `atomic_file` or `atomic_folder` around, and why nothing half-written can come of it.
MAY_WRITE = {
    "dsrg.files.atomic_file": "the thing itself",
    "dsrg.files.atomic_folder": "the thing itself",
    "dsrg.artifacts.model_file.save_model": "into a buffer",
    "dsrg.artifacts.label_folder._Tars.add": "in the folder that written_labels opens with atomic_folder",
    "dsrg.artifacts.predictions.PredictionFolder.write": "in the folder that `dsrg predict` opened with atomic_folder",
    "dsrg.runtime.resumable._packed": "into a buffer",
    "dsrg.artifacts.submission._write": "to the file that write_submission opened with atomic_file",
    "dsrg.sources.validation._keep_mask": "in the folder that `prepare` opened with atomic_folder",
    "dsrg.sources.download._unpack_voc": "into a temporary folder, renamed when checked",
    "dsrg.data.palette.label_png": "into a buffer",
    "dsrg.sources.shapes._write_picture": "in the folder that draw_dataset opened with atomic_folder",
    "dsrg.runtime.lock.try_lock": "into a lock's own file, which says whose it is",
    "dsrg.training.fit.fit": "calls Checkpoints.save, and writes the curves whole",
    "dsrg.training.curves.Curves.write": "unfinished work in the scratch folder",
    "dsrg.training.checkpoints.Checkpoints.kept_when_stopped": "calls Checkpoints.save",
    "dsrg.training.checkpoints.Checkpoints.save": "into a buffer",
}


def functions(tree: ast.Module, module: str) -> dict[str, ast.AST]:
    """Functions and methods by dotted name; what stands outside of any goes by the module's own."""
    found: dict[str, ast.AST] = {}

    def walk(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                own = f"{name}.{child.name}"
                if isinstance(child, ast.ClassDef):
                    walk(child, own)
                else:
                    found[own] = child
            else:
                walk(child, name)

    walk(tree, module)
    return found


def is_writing(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("open", "File", "ZipFile", "TarFile", "GzipFile"):
        values = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
        texts = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
        return any(re.fullmatch("[rwaxbt+]*[wax+][rwaxbt+]*", text) for text in texts)
    if not isinstance(call.func, ast.Attribute) or name not in WRITING:
        return False
    # array.copy() and text.replace(a, b) are no files; shutil.copy(a, b), os.replace(a, b) and path.replace(b) are
    return bool(call.args) and not (name == "replace" and len(call.args) == 2 and ast.unparse(call.func.value) != "os")


def writings(function: ast.AST) -> list[int]:
    """Lines that write, outside of any `with atomic_file(...)` or `with atomic_folder(...)`."""
    lines = []

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            if any(getattr(call.func, "id", None) in WHOLE for call in calls):
                return
        if isinstance(node, ast.Call) and is_writing(node):
            lines.append(node.lineno)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(function)
    return lines


def module_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


def all_writings() -> dict[str, list[int]]:
    found = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, function in functions(tree, module_of(path)).items():
            if lines := writings(function):
                found[name] = lines
    return found


def test_everything_written_is_written_aside_and_renamed():
    found = all_writings()
    past = {name: lines for name, lines in found.items() if name not in MAY_WRITE}
    assert not past, f"use dsrg.files.atomic_file or atomic_folder, or say in MAY_WRITE why not: {past}"
    assert not MAY_WRITE.keys() - found.keys(), "these do not write any more; take them out of MAY_WRITE"


@pytest.mark.parametrize(
    "source",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "path.open('w')",
        "path.write_text('a')",
        "np.savez(path, a)",
        "image.save(path)",
        "os.replace(a, b)",
        "path.replace(other)",
        "h5py.File(path, 'w')",
        "with open(path, 'wb') as file:\n    pass",
        "with suppress(OSError):\n    path.write_bytes(b'')",
    ],
)
def test_a_writing_is_noticed(source):
    assert writings(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "open(path)",
        "open(path, 'rb')",
        "h5py.File(path)",
        "text.replace('a', 'b')",
        "write_text(path, 'a')",
        "with atomic_file(path) as temporary, open(temporary, 'wb') as file:\n    torch.save(a, file)",
        "with atomic_folder(path) as folder:\n    image.save(folder / 'a.png')",
    ],
)
def test_what_writes_whole_files_is_let_be(source):
    assert not writings(ast.parse(source))


# Files that could run code

MODULES_THAT_RUN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS_THAT_RUN = {"eval", "exec", "compile", "__import__", "system", "popen"}
MAY_RUN = {
    "dsrg.artifacts.safe_pickle": "imports Python's reader, to which it leaves ten names",
    "dsrg.inference.export.runner": "torch.export.load of the file that `dsrg export` has just written",
    "dsrg.figures.report._yaml": "only writes, in the order of the params",
}


def is_constant(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value == value


def dangers(tree: ast.AST) -> list[str]:
    """What in a source could run code out of a file: imports and calls, as text."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES_THAT_RUN]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES_THAT_RUN:
            found.append(node.module)
        elif isinstance(node, ast.Call) and is_dangerous(node):
            found.append(ast.unparse(node)[:80])
    return found


def is_dangerous(call: ast.Call) -> bool:
    words = {word.arg: word.value for word in call.keywords}
    where = ast.unparse(call.func)
    if isinstance(call.func, ast.Name) and where in CALLS_THAT_RUN or where in ("os.system", "os.popen"):
        return True
    if re.fullmatch(r"torch\.(jit|export)\.load|torch\.package\..*", where):
        return True
    if where == "torch.load" or where.endswith(("get_state_dict", "load_state_dict_from_url")):
        return not is_constant(words.get("weights_only"), True)
    if re.fullmatch(r"(np|numpy)\.(load|fromregex|loadtxt|genfromtxt)", where) or "allow_pickle" in words:
        return not is_constant(words.get("allow_pickle"), False)
    if where.endswith("YAML"):
        return not is_constant(words.get("typ"), "safe")
    if re.search(r"(ElementTree|etree|ET)\.(parse|fromstring|iterparse|XML)$|minidom|expatbuilder|sax\.parse", where):
        return "_NoDoctype" not in ast.unparse(call)
    return "shell" in words and not is_constant(words["shell"], False)


def test_nothing_in_the_source_runs_what_a_file_says():
    found = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = functions(tree, module_of(path))
        allowed = sum(len(dangers(function)) for name, function in own.items() if name in MAY_RUN)
        allowed += module_of(path) in MAY_RUN
        if len(lines := dangers(tree)) > allowed:
            found[module_of(path)] = lines
    assert not found


def test_what_may_run_is_still_there():
    for name in MAY_RUN.keys() - {"dsrg.artifacts.safe_pickle"}:
        path = ROOT / (name.rsplit(".", 1)[0].replace(".", "/") + ".py")
        assert dangers(functions(ast.parse(path.read_text(encoding="utf-8")), module_of(path))[name]), name


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import yaml",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "torch.jit.load(path)",
        "entry.get_state_dict(check_hash=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "YAML().load(text)",
        "YAML(typ='unsafe').load(text)",
        "ElementTree.parse(path)",
        "xml.dom.minidom.parse(path)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_what_could_run_code_is_noticed(source):
    assert dangers(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "import pickletools",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "YAML(typ='safe', pure=True).load(text)",
        "re.compile(text)",
        "network.eval()",
        "ElementTree.parse(path, ElementTree.XMLParser(target=_NoDoctype()))",
        "subprocess.run([text])",
    ],
)
def test_what_only_reads_data_is_let_be(source):
    assert not dangers(ast.parse(source))
