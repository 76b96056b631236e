"""What the source must not do, whoever adds to it: read a file that could run code."""

import ast
import re

import pytest

from helpers import ROOT

MODULES_THAT_RUN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS_THAT_RUN = {"eval", "exec", "compile", "__import__", "system", "popen"}
MAY_RUN = {  # file -> what it may
    "dsrg/artifacts/safe_pickle.py": ["pickle"],  # Python's reader, to which it leaves ten names
    "dsrg/inference/export.py": ["torch.export.load(file)"],  # of the file that `dsrg export` has just written
    "dsrg/figures/report.py": ["YAML()"],  # only writes, in the order of the params
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
    for path in (path for folder in ("dsrg", "stages") for path in (ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        found[name] = [line for line in dangers(ast.parse(path.read_text())) if line not in MAY_RUN.get(name, [])]
    assert not {name: lines for name, lines in found.items() if lines}


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
