"""The stages one after the other, on a tiny drawn set."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks import seed_quality
from benchmarks.experiments import evaluated
from dsrg.artifacts.model_file import load_model
from dsrg.artifacts.seeds_h5 import read_seeds
from dsrg.data.classes import read_classes
from dsrg.data.index import read_index
from dsrg.files import sha256
from dsrg.params import Params
from dsrg.project import Project
from dsrg.stage import Stage, library_versions, load_stage
from helpers import ROOT
from helpers.command import run_command, run_dsrg
from helpers.dvc_yaml import FILE, STAGES, checksums, outs
from helpers.project import leftovers, run_stage, tiny_project


@pytest.fixture
def project(finished, monkeypatch):
    monkeypatch.chdir(finished)
    return finished


def test_every_declared_out_is_made_and_nothing_half_written_is_left(project):
    for name, stage in STAGES.items():
        for out in outs(stage):
            assert (project / out).exists(), f"{name} did not make {out}"
    assert [path.name for path in project.rglob("*.tmp")] == []
    assert list((project / ".scratch").iterdir()) == []


def test_outs_hold_what_the_design_says(project):
    classes = read_classes(project / FILE["classes"])
    index = read_index(project / FILE["index"], classes)
    seeds = read_seeds(project / FILE["seeds"], classes=classes, grid=9)
    assert seeds.ids == index.split("train").ids
    allowed = np.concatenate([index.split("train").present, np.zeros((12, 255 - len(classes)), bool)], axis=1)
    for row, labels in enumerate(seeds.seeds):
        assert all(value == 255 or allowed[row, value] for value in np.unique(labels))
    for row, image_id in enumerate(seeds.ids):
        image = Image.open(project / FILE["pseudo_labels"] / f"{image_id}.png")
        assert image.mode == "P" and image.size == (index.widths[row], index.heights[row])
        assert all(allowed[row, value] for value in np.unique(image)), "pseudo labels keep to the tags"
    for name in ("dsrg", "retrain"):
        assert load_model(project / FILE[name], kind="segmenter", stage_name=name).classes == classes


def test_metrics(project):
    metrics = json.loads((project / "results/evaluate/metrics.json").read_text())
    for network in ("dsrg", "retrain"):
        assert 0 <= metrics[network]["miou"] <= 1 and 0 <= metrics[network]["miou_crf"] <= 1
    quality = json.loads((project / "results/audit/metrics.json").read_text())
    assert set(quality["seeds"]) >= {"fg_precision", "fg_recall", "bg_precision", "bg_recall", "coverage"}
    assert quality["pseudo_labels"]["coverage"] == 1


def test_the_page_of_the_run_tells_what_its_tables_say(project):
    page = (project / FILE["report"]).read_text()
    metrics = json.loads((project / "results/evaluate/metrics.json").read_text())
    for network in ("dsrg", "retrain"):
        for name in ("miou", "miou_crf"):
            assert f"<td>{100 * metrics[network][name]:.1f}</td>" in page
    assert "<pre>seed: 0\n" in page and "head_channels: 16" in page
    assert all(f"<td>{number}</td>" in page for number in library_versions().values())
    assert str(project) not in page, "where a run was made says nothing about it"
    assert {path.stem for path in (project / "results/evaluate/best_worst").iterdir()} == {
        line.split(",")[0] for line in (project / "results/evaluate/per_image.csv").read_text().splitlines()[1:]
    }, "of four images each is among the best or the worst"


@pytest.mark.parametrize(
    "name, key",
    [
        ("growth_quality", "seeds alone"),
        ("seed_quality", "classes"),
        ("upper_limit", "miou_crf"),
        ("advice", "pairs"),
    ],
)
def test_benchmarks_read_a_finished_run(project, monkeypatch, tmp_path, name, key):
    """They keep their figures, and change nothing of the run."""
    program = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(program, "RESULTS", tmp_path)
    before = checksums(project)
    run_command(program.main, "--name", "tiny")
    assert key in json.loads((tmp_path / f"{name}-tiny.json").read_text())
    assert checksums(project) == before


def test_quality_of_seeds_needs_masks_of_training_images(project, monkeypatch):
    monkeypatch.setattr(seed_quality, "read_ground_truth", lambda path: {})
    result = CliRunner().invoke(seed_quality.main, ["--name", "tiny"])
    assert result.exit_code == 1 and "no training image has a mask" in result.output


def test_tables_evaluate_the_networks_of_a_finished_run(project):
    metrics = json.loads((project / "results/evaluate/metrics.json").read_text())
    for network in ("dsrg", "retrain"):
        found = evaluated(network)
        assert round(found["miou"], 6) == metrics[network]["miou"]
        assert round(found["miou_crf"], 6) == metrics[network]["miou_crf"]
    moments = evaluated("dsrg")["growth"]
    assert [moment["step"] for moment in moments] == [4, 8, 12]
    for moment in moments:
        assert all(0 <= moment[key] <= 1 for key in ("fg_share", "bg_share", "fg_precision", "bg_precision"))
        assert moment["fg_share"] + moment["bg_share"] == pytest.approx(moment["coverage"])


CIRCUMSTANCES = [
    (["train_dsrg", "8"], {"DSRG_WORKERS": "4", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "BACKWARDS": "1"}),
    (["retrain", "5"], {"DSRG_WORKERS": "0", "LC_ALL": "tr_TR.UTF-8", "TZ": "America/St_Johns", "BACKWARDS": "1"}),
    ([], {"DSRG_WORKERS": "1", "LC_ALL": "de_DE.UTF-8", "TZ": "UTC"}),
]


def test_killed_twice_and_gone_on_with_otherwise_the_same_bits(project, tmp_path):
    """... with 4, 0 and 1 workers, in other locales, time zones, hash seeds and orders of files, through a link, with
    dsrg/runtime changed in between.
    """
    folder = tiny_project(tmp_path / "project")
    (folder / "data").rename(tmp_path / "disk")
    (folder / "data").symlink_to(tmp_path / "disk")
    shutil.copy(ROOT / "tests/helpers/run_pipeline.py", folder)
    for seed, (kill, circumstances) in enumerate(CIRCUMSTANCES, 1):
        settings = {"PYTHONHASHSEED": str(seed), "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": "."}
        environment = os.environ | settings | {"DSRG_CHECKPOINT_STEPS": "3"} | circumstances
        command = [sys.executable, "run_pipeline.py", *kill]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == (-signal.SIGKILL if kill else 0), done.stderr
        assert "going on from step" in done.stdout or seed == 1
        for file in (folder / "dsrg/runtime").glob("*.py"):
            file.write_text(f"{file.read_text()}# changed\n")
    assert checksums(folder) == checksums(project)
    assert leftovers(folder) == []


def test_what_a_changed_line_of_code_reruns(tmp_path):
    folder = tiny_project(tmp_path)
    for out in {out for stage in STAGES.values() for out in outs(stage)}:
        (folder / out).parent.mkdir(parents=True, exist_ok=True)
        (folder / out).write_text(out)
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["init", "--no-scm"], ["commit", "--force"]):
        subprocess.run([*dvc, *command, "--quiet"], cwd=folder, check=True)

    def changed_by(file: str) -> set[str]:
        before = (folder / file).read_text()
        (folder / file).write_text(f"{before}# changed\n")
        found = subprocess.run([*dvc, "status", "--json"], cwd=folder, capture_output=True, text=True, check=True)
        (folder / file).write_text(before)
        return {*json.loads(found.stdout)}

    assert changed_by("dsrg/runtime/progress.py") == set()
    assert changed_by("dsrg/method/growing.py") == {"train_dsrg"}  # and what follows it, where its outs change
    assert changed_by("dsrg/networks/heads.py") >= {"train_cam", "make_seeds", "train_dsrg", "retrain", "evaluate"}


def test_another_seed_gives_another_network(project, tmp_path, monkeypatch):
    tiny_project(tmp_path, seed=1)
    monkeypatch.chdir(tmp_path)
    for name in ("draw_shapes", "prepare", "train_cam"):
        run_stage(name)
    assert sha256(tmp_path / FILE["index"]) == sha256(project / FILE["index"])
    assert sha256(tmp_path / FILE["cam"]) != sha256(project / FILE["cam"])


@pytest.mark.parametrize(
    "changes",
    [
        {"grow": {"enabled": False}, "dsrg": {"seed_loss": "plain", "boundary_loss": False}},
        {"grow": {"on": "softmax"}, "dsrg": {"boundary_loss": False}},
        {"crf": {"train": {"unary": "prob"}}},
        {"dsrg": {"objective": "sec"}},
        {"dsrg": {"objective": "em_adapt"}},
    ],
    ids=["static seeds, plain loss", "growth on the softmax", "released unary", "SEC", "another method"],
)
def test_switches_of_table_2(project, tmp_path, monkeypatch, changes):
    stage = load_stage("train_dsrg")
    changed = stage.project.params.model_dump()
    for section, values in changes.items():
        for key, value in values.items():
            changed[section][key] = changed[section][key] | value if isinstance(value, dict) else value
    # outs go elsewhere
    paths = replace(stage.paths, **{name: tmp_path / name for name in ("dsrg", "growth", "results")})
    monkeypatch.setenv("DSRG_SCRATCH", str(tmp_path / "scratch"))
    changed_stage = Stage("train_dsrg", Project(Params.model_validate(changed), paths))
    importlib.import_module("stages.train_dsrg").train_dsrg(changed_stage)
    assert sha256(tmp_path / "dsrg") != sha256(project / FILE["dsrg"])


def test_each_training_with_a_network_of_its_own(tmp_path, monkeypatch):
    """Seeds from one classifier, another network on them, and a third one taught by its masks, to the end."""
    own = {
        "cam": {"network": {"output_stride": 16}},
        "dsrg": {"network": {"rates": [1, 2]}, "init": "weights"},
        "retrain": {"network": {"backbone": "mobilenet_v2", "output_stride": 16}, "init": "weights"},
    }
    tiny_project(tmp_path, **own)
    monkeypatch.chdir(tmp_path)
    for name in ("draw_shapes", "prepare", "train_cam", "make_seeds", "train_dsrg", "make_pseudo_labels", "retrain"):
        run_stage(name)
    run_stage("evaluate")
    kinds = {"cam": "classifier", "dsrg": "segmenter", "retrain": "segmenter"}
    for training, kind in kinds.items():
        network = load_model(tmp_path / FILE[training], kind=kind, stage_name="train").network
        assert network.items() >= own[training]["network"].items()
    metrics = json.loads((tmp_path / "results/evaluate/metrics.json").read_text())
    assert metrics.keys() == {"dsrg", "retrain"}


def test_show_draws_the_whole_way(project, tmp_path):
    for image_id in ("train0000", "val0000"):
        run_dsrg("show", image_id, "--out", tmp_path / f"{image_id}.png")
        assert Image.open(tmp_path / f"{image_id}.png").width > 300
    assert "no such image" in run_dsrg("show", "nothing", "--out", "x.png", code=2)


def test_check_command(project, tmp_path):
    assert "12 training images" in run_dsrg("check", "--json", tmp_path / "check.json")
    assert json.loads((tmp_path / "check.json").read_text())["problems"] == []


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"network": {"backbone": "timm:nothing"}}, ["network.backbone: timm:nothing: no such model"]),
        ({"retrain": {"network": {"backbone": "timm:nothing"}, "init": "weights"}}, ["retrain.network.backbone: tim"]),
        ({"cam": {"network": {"weights": "no.pt"}}}, ["cam.network.weights: no.pt: not there"]),
        ({"network": {"weights": "no.pt"}}, ["network.weights: no.pt: not there; expected the path of a file"]),
        ({"network": {"weights": "params.yaml"}}, ["network.weights: params.yaml: not a state dict"]),
        ({"seeds": {"cues": "no.pickle", "cues_list": "no.txt"}}, ["cues: no.pickle: not", "cues_list: no.txt: not"]),
        ({"seeds": {"cues": "params.yaml", "cues_list": "dvc.yaml"}}, ["params.yaml: ", "undamaged pickle"]),
        (
            {"saliency": {"method": "maps", "maps": "stages"}},
            [*(f"no map train{row:04}.png" for row in range(10)), "2 more"],
        ),
        ({"network": {"weights": "no.pt"}, "saliency": {"method": "maps", "maps": "no"}}, ["no.pt: not", "no: not"]),
        ({"network": {"weights": "no.pt", "backbone": "timm:nothing"}}, ["no.pt: not", "timm:nothing: no such"]),
        ({"network": {"weights": "no.pt"}, "data": {"root": "gone"}}, ["no.pt: not", "gone"]),
    ],
    ids=["backbone", "final", "cam", "weights", "no state", "cues", "no pickle", "maps", "files", "both", "no data"],
)
def test_check_looks_at_all_that_params_name(project, tmp_path, monkeypatch, changes, said):
    """The stages would refuse it too, but those of the seeds after the classifier's training."""
    tiny_project(tmp_path, **changes | {"data": {"root": str(project / "data/shapes")} | changes.get("data", {})})
    monkeypatch.chdir(tmp_path)
    output = run_dsrg("check", code=2)
    assert all(words in output for words in said), output


def test_check_wants_no_maps_where_cues_are_ready(project, tmp_path, monkeypatch):
    cues, maps = {"cues": "no.pickle", "cues_list": "dvc.yaml"}, {"method": "maps", "maps": "no"}
    tiny_project(tmp_path, seeds=cues, saliency=maps, data={"root": str(project / "data/shapes")})
    monkeypatch.chdir(tmp_path)
    output = run_dsrg("check", code=2)
    assert "seeds.cues: no.pickle: not there" in output and output.endswith("\n1 problem\n")
