"""The benchmark that strikes pipelines finds what it looks for; its strikes hit whom they should."""

import json
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from benchmarks import chaos
from helpers import ROOT

DVC = """
    import subprocess, sys, signal
    stage = subprocess.Popen([sys.executable, "-m", "stages.slow"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as dvc does while a stage runs
    sys.exit(stage.wait())
"""
SLOW = """
    import os, time
    from dsrg.runtime.signals import Stopped, starter, stop_with, stoppable
    with stoppable():
        stop_with(starter())
        open("ready", "w").close()
        time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()
    (tmp_path / "dvc.py").write_text(textwrap.dedent(DVC))
    (tmp_path / "stages" / "slow.py").write_text(textwrap.dedent(SLOW))
    return tmp_path


def struck(folder: Path, way) -> tuple[dict | None, int]:
    """A strike at a pipeline whose only stage is at work; the exit code."""
    process = chaos.start([sys.executable, "dvc.py"], folder, PYTHONPATH=str(ROOT))

    def wait() -> None:
        while not (folder / "ready").exists() and process.poll() is None:
            chaos.time.sleep(0.02)

    try:
        return chaos.struck(process, way, wait=wait), process.returncode
    finally:
        for member in chaos.group(process.pid):
            member.kill()


@pytest.mark.parametrize(
    ("way", "code"),
    [
        (chaos.strike_everything, -signal.SIGKILL),
        (chaos.strike_dvc, -signal.SIGKILL),
        (chaos.strike_stage, -signal.SIGKILL % 256),
        (chaos.strike_stop, 1),  # no run_stage here that turns the stop into 143
        (chaos.strike_ctrl_c, 1),
    ],
)
def test_every_way_ends_everything(folder, way, code):
    strike, returned = struck(folder, way)
    assert strike == {"way": way.__name__.removeprefix("strike_"), "stage": "slow", "alive": []}
    assert returned == code


def test_leftovers(tmp_path):
    for name in ("data/.a.pt.12.tmp", ".scratch/train_cam-01/step.pt", ".scratch/a.lock", "data/.masks.3.old/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for innocent in (".scratch/seconds.json", ".dvc/tmp/.x.tmp", "data/a.pt", ".gitignore"):
        (tmp_path / innocent).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / innocent).touch()
    expected = ["data/.a.pt.12.tmp", "data/.masks.3.old", ".scratch/train_cam-01", ".scratch/train_cam-01/step.pt"]
    assert chaos.leftovers(tmp_path) == sorted([*expected, ".scratch/a.lock"])


def test_the_program_with_a_pipeline_of_one_stage_and_no_strike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chaos, "RESULTS", tmp_path)
    for name in (*chaos.CODE, ".dvc"):
        (tmp_path / name).mkdir()
    stage = {"cmd": "echo made > made.txt", "outs": ["${file.made}"]}
    pipeline = {"vars": [{"file": {"made": "made.txt"}}], "stages": {"one": stage}}
    YAML().dump(pipeline, tmp_path / "dvc.yaml")
    (tmp_path / "params.yaml").write_text((ROOT / "recipes/shapes.yaml").read_text())
    for name in (".dvcignore", ".gitignore"):
        (tmp_path / name).touch()
    run = CliRunner().invoke(chaos.main, ["--name", "one", "--kills", "0", "-S", "seed=3"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    found = json.loads((tmp_path / "chaos-one.json").read_text())
    assert (found["files"], found["rounds"], found["strikes"], found["different"]) == (1, 1, [], [])
