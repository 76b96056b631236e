"""DVC itself on the tiny project: second run idle, an experiment reruns what it must and nothing more."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from dsrg.artifacts.model_file import load_model
from dsrg.errors import InputError
from helpers import ROOT
from helpers.command import run_dsrg
from helpers.dvc_yaml import DAG
from helpers.launchers import environment
from helpers.project import run_stage, tiny_project


def run(*command: str, cwd: Path, **more: str) -> str:
    """Standard output and error of a command that must succeed, with this Python's tools first on the path."""
    names = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}
    done = subprocess.run(command, cwd=cwd, env=environment(**names, **more), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tiny_project(tmp_path_factory.mktemp("dvc"))
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    run("git", "init", "-q", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "start", cwd=folder)
    run("dvc", "repro", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "first run", cwd=folder)
    return folder


def test_git_holds_no_big_outs(project):
    tracked = run("git", "ls-files", cwd=project).splitlines()
    assert "dvc.lock" in tracked and "results/evaluate/metrics.json" in tracked
    assert "data/points.csv" in tracked, "a person's, no stage's"
    outs = [name for name in tracked if name.startswith("data/") and name != "data/points.csv"]
    assert outs + [name for name in tracked if name.endswith((".png", ".tsv"))] == []


def test_second_run_does_nothing(project):
    assert "Data and pipelines are up to date" in run("dvc", "repro", cwd=project)
    assert run("git", "status", "--porcelain", cwd=project) == ""


def test_experiment_reruns_growth_and_what_follows_only(project):
    said = run("dvc", "exp", "run", "-S", "grow.fg_thresh=0.6", "-S", "dsrg.min_prob=2e-4", cwd=project)
    ran = {line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")}
    assert {"train_dsrg", "make_pseudo_labels", "retrain", "evaluate", "audit"} >= ran >= {"train_dsrg"}
    table = json.loads(run("dvc", "exp", "show", "--json", cwd=project))
    shown = json.dumps(table)
    assert "results/evaluate/metrics.json" in shown and "miou_crf" in shown


def test_times_of_the_stages_are_noted_and_told_in_a_copy_of_the_page(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    noted = json.loads((project / ".scratch" / "seconds.json").read_text())[str(project)]
    assert set(noted) == set(DAG["stages"]) and all(seconds > 0 for seconds in noted.values())
    run_dsrg("report", "--out", tmp_path / "timed.html")
    page, timed = (path.read_text() for path in (project / "results" / "report.html", tmp_path / "timed.html"))
    for name in DAG["stages"]:
        assert f'<th scope="row">{name}</th>' in timed and f'<th scope="row">{name}</th>' not in page
    assert "up to date" in run("dvc", "status", cwd=project)


def test_no_times_no_copy(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    noted = project / ".scratch" / "seconds.json"
    text = noted.read_text()
    try:
        for wrong in ("", "{}"):
            noted.write_text(wrong)
            refused = run_dsrg("report", "--out", tmp_path / "timed.html", code=2)
            assert "no stage has run in this folder yet" in refused
    finally:
        noted.write_text(text)
    monkeypatch.chdir(tmp_path)
    shutil.copy(project / "dvc.yaml", tmp_path)
    shutil.copy(project / "params.yaml", tmp_path)
    refused = run_dsrg("report", "--out", tmp_path / "timed.html", code=2)
    assert "report.html: not made yet; run `dvc repro evaluate`" in refused
    assert not (tmp_path / "timed.html").exists()


TITLES = [title for plot in DAG["plots"] if isinstance(plot, dict) for title in plot]


@pytest.fixture(scope="module", params=["show", "diff HEAD HEAD~1 workspace"], ids=["show", "diff"])
def plots(project, tmp_path_factory, request):
    """The page that `dvc plots` makes."""
    folder = tmp_path_factory.mktemp("plots")
    run("dvc", "plots", *request.param.split(), "--out", str(folder), cwd=project)
    return folder / "index.html"


def test_plots_say_all_offline(plots):
    page = plots.read_text()
    assert len(TITLES) == 10 and all(json.dumps(title) in page for title in TITLES)
    assert "<script src=" not in page and "contact_sheet.png" in page


def test_plots_are_drawn_offline(plots, page):
    page.goto(plots.as_uri())
    drawn = ".vega-embed canvas, .vega-embed svg.marks"
    page.wait_for_function(f"document.querySelectorAll('{drawn}').length >= {len(TITLES)}")


def test_bad_data_stops_with_every_offender_named(project, tmp_path, monkeypatch):
    root = tmp_path / "broken"
    shutil.copytree(project / "data" / "shapes", root)
    image, mask, annotation = (
        root / "JPEGImages" / "train0000.jpg",
        root / "SegmentationClass" / "train0001.png",
        root / "Annotations" / "train0002.xml",
    )
    image.write_bytes(image.read_bytes()[:500])
    Image.open(mask).convert("RGB").save(mask)
    annotation.write_text("<annotation><object><name>daisie</name></object></annotation>")
    with open(root / "ImageSets" / "Segmentation" / "val.txt", "a") as file:
        file.write("nowhere\n")
    before = (project / "data" / "index.csv").read_bytes()
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("root: data/shapes", f"root: {root}"))
    try:
        monkeypatch.chdir(project)
        with pytest.raises(InputError) as refused:
            run_stage("prepare")
        checked = run_dsrg("check", code=2)
    finally:
        (project / "params.yaml").write_text(text)
    for clue in ("train0000.jpg", "train0001.png", "'daisie'", "'daisy'", "nowhere"):
        assert clue in str(refused.value) and clue in checked
    assert (project / "data" / "index.csv").read_bytes() == before


def test_a_stage_of_several_processes_is_recorded_by_hand(project):
    """As on several machines, where a launcher starts the stage: its weights are the same but for rounding."""

    def weights() -> torch.Tensor:
        model = load_model(project / "data" / "dsrg.safetensors", kind="segmenter", stage_name="train_dsrg")
        return torch.cat([value.flatten() for value in model.weights.values()])

    before, growth = weights(), sorted((project / "data" / "growth").rglob("*.png"))
    settings = {"DSRG_DEVICES": "2", "DSRG_WORKERS": "1", "DSRG_PROGRESS_SECONDS": "0"}
    said = run(sys.executable, "-m", "stages.train_dsrg", cwd=project, **settings)
    assert "Starting with 2 processes" in said and said.count("train_dsrg: 12/12") == 1
    assert float((weights() - before).norm() / before.norm()) < 1e-4
    assert sorted((project / "data" / "growth").rglob("*.png")) == growth
    assert [path.name for path in (project / ".scratch").iterdir()] == ["seconds.json"]
    run("dvc", "commit", "-f", "train_dsrg", cwd=project)
    assert json.loads(run("dvc", "status", "--json", "train_dsrg", cwd=project)) == {}
