"""docs/new-method.md: followed word by word, it adds a loss, and touches what it says."""

import re
import shutil
import subprocess
import sys

import pytest

from helpers import ROOT
from helpers.project import tiny_project

PAGE = (ROOT / "docs" / "new-method.md").read_text(encoding="utf-8")
BLOCKS = {file: text for file, text in re.findall(r"^```\w+ (\S+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)}
NEW = "dsrg/method/weak/power_mean.py"


def put_in(text: str, lines: str, *, before: str = "", after: str = "") -> str:
    """The text with lines added before or after its one line of that beginning."""
    (found,) = re.findall(rf"^{re.escape(before or after)}.*\n", text, flags=re.MULTILINE)
    return text.replace(found, lines + found if before else found + lines)


def followed(file: str, text: str) -> str:
    """What a file becomes by the page."""
    lines = BLOCKS["params.yaml" if file.endswith(".yaml") else file].splitlines(keepends=True)
    match file:
        case "dsrg/method/weak/__init__.py":
            return put_in(put_in(text, lines[0], after="from dsrg.method.weak"), lines[1], after="LOSSES = {")
        case "dsrg/params.py":
            added = put_in(text, "".join(lines[:-1]) + "\n\n", before="class Weak(Section)")
            return put_in(added, lines[-1], before="    psl: ")
        case _:
            return put_in(text, "".join(lines), after="weak:")


def test_the_page_adds_a_loss(tmp_path, finished):
    """To a project with the data of another, but for what `train_dsrg` makes."""
    project = tiny_project(tmp_path / "project", dsrg={"steps": 3, "objective": "power_mean"})
    for name in ("tests", "recipes"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "cases"))
    shutil.copytree(finished / "data", project / "data", dirs_exist_ok=True)
    assert len(BLOCKS[NEW].splitlines()) <= 60
    touched = ["dsrg/method/weak/__init__.py", "dsrg/params.py", "params.yaml"]
    touched += [f"recipes/{path.name}" for path in (ROOT / "recipes").iterdir()]
    assert {NEW, *touched} == {*BLOCKS, *(file for file in touched if file.startswith("recipes/"))}
    (project / NEW).write_text(BLOCKS[NEW], encoding="utf-8")
    for file in touched:
        path = project / file
        path.write_text(followed(file, path.read_text(encoding="utf-8")), encoding="utf-8")

    def run(*args: str) -> str:
        done = subprocess.run([sys.executable, "-m", *args], cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    quietly = "-q", "-n", "0", "-p", "no:cacheprovider"
    assert " passed" in run("pytest", *quietly, "tests/test_weak.py", "-k", "power_mean")
    run("stages.train_dsrg")
    header, *rows = (project / "results/train_dsrg/curves.tsv").read_text().splitlines()
    values = dict(zip(header.split("\t"), rows[-1].split("\t"), strict=True))
    shares = [float(values[f"predicted_{name}"]) for name in ("background", "tagged", "absent")]
    assert sum(shares) == pytest.approx(1, abs=1e-4) and float(values["loss"]) > 0


def test_only_the_table_and_the_params_know_the_names():
    from dsrg.method.weak import LOSSES

    names = re.compile(rf"[\"'.=]({'|'.join(LOSSES)})\b")
    for folder in ("stages", "benchmarks", "dsrg/commands", "dsrg/inspect", "dsrg/figures", "dsrg/training"):
        for path in (ROOT / folder).glob("*.py"):
            assert not names.findall(path.read_text(encoding="utf-8")), path
