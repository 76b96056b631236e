"""The benchmark that strikes pipelines finds what it looks for; its strikes hit whom they should."""

import json

from click.testing import CliRunner
from ruamel.yaml import YAML

from benchmarks import chaos
from helpers import ROOT


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
