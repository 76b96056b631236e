"""docs/scale.md's lines for DVC: a stage run by hand and recorded, results pushed and pulled elsewhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsrg.files import sha256
from helpers.launchers import environment
from helpers.project import tiny_project

DVC = """
import sys
from dvc.cli import main
for line in sys.argv[1:]:
    print(">", line, flush=True)
    if code := main(line.split()):
        sys.exit(code)
"""
OUTS = ("data/index.csv", "data/masks", "data/shapes")


def run(folder: Path, *command: str) -> str:
    """The output of a command in a project; fails with it."""
    settings, pipes = environment(PYTHONPATH="."), {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=settings, text=True, **pipes)
    assert done.returncode == 0, done.stdout
    return done.stdout


def sums(folder: Path) -> dict[str, str]:
    found = (path for out in OUTS for path in [folder / out, *(folder / out).rglob("*")])
    return {str(path.relative_to(folder)): sha256(path) for path in found if path.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project of which dvc has run the first stage, and somebody the second by hand."""
    folder = tiny_project(tmp_path_factory.mktemp("remote") / "project")
    run(folder, "-c", DVC, "init --no-scm -q", "repro -q draw_shapes")
    run(folder, "-m", "stages.prepare")
    return folder


def test_a_stage_run_by_hand_is_recorded(project):
    said = run(project, "-c", DVC, "status prepare", "commit -f prepare", "status prepare", "repro prepare")
    before, after = said.split("> commit -f prepare")
    assert "changed deps" in before or "changed outs" in before or "not in cache" in before, before
    assert "Data and pipelines are up to date" in after and "Stage 'prepare' didn't change, skipping" in after
    assert "Running stage" not in after


def test_results_are_pushed_and_pulled_elsewhere(project, tmp_path):
    run(project, "-c", DVC, "commit -f prepare", f"remote add -q --default shared {tmp_path / 'shared'}", "push -q")
    clone = tmp_path / "clone"  # what git would hold
    shutil.copytree(project, clone, ignore=shutil.ignore_patterns("data", "cache", "tmp", ".scratch", "__pycache__"))
    shutil.copytree(project / "dsrg" / "data", clone / "dsrg" / "data")
    assert sums(clone) == {}
    said = run(clone, "-c", DVC, "pull -q --allow-missing", "repro prepare")
    assert sums(clone) == sums(project) and len(sums(clone)) > 16
    assert "Stage 'prepare' didn't change, skipping" in said and "Running stage" not in said
