"""Retraining in rounds: which network is kept, when it ends, and that an interrupted run goes on."""

import csv
import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dsrg.artifacts.label_folder import LabelFolder
from dsrg.artifacts.model_file import Model, load_model
from dsrg.data.palette import label_png
from dsrg.files import sha256
from dsrg.stage import load_stage
from dsrg.training import rounds as module
from dsrg.training.rounds import MODEL, Round, mean_agreement, train_in_rounds
from helpers.data import note_checksums
from helpers.dvc_yaml import FILE
from helpers.project import run_stage, tiny_project

IDS = ["a", "b"]


def label_folder(folder: Path, value: int) -> LabelFolder:
    """Label maps of ten pixels, of which `value` are class 1."""
    folder.mkdir()
    for image_id in IDS:
        (folder / f"{image_id}.png").write_bytes(label_png(row_of(value)))
    note_checksums(folder)
    return LabelFolder(folder, IDS, stage_name="")


def row_of(value: int) -> np.ndarray:
    return np.repeat(np.uint8([[1, 0]]), [value, 10 - value], axis=1)


class Play:
    """Trainings that note what they saw; the network of round k labels `script[k - 1]` of ten pixels as class 1."""

    def __init__(self, tmp_path: Path, script: list[int], *, breaks_at: str = "") -> None:
        self.script, self.breaks_at, self.seen = script, breaks_at, []
        self.scratch, self.first = tmp_path / "scratch", tmp_path / "first"
        self.labels = (
            LabelFolder(self.first, IDS, stage_name="") if self.first.exists() else label_folder(self.first, 2)
        )

    def step(self, what: str) -> None:
        self.seen.append(what)
        if what == self.breaks_at:
            raise KeyboardInterrupt

    def train(self, labels: LabelFolder, folder: Path) -> Model:
        self.step(f"train {folder.name[5:]} on {int((labels[0] == 1).sum())}")
        return Model("segmenter", ["x"], {}, 9, {"round": torch.tensor(int(folder.name[5:]))})

    def label(self, path: Path):
        number = int(load_model(path, kind="segmenter", stage_name="").weights["round"])
        for image_id in IDS:
            self.step(f"label {image_id} by {number}")
            yield row_of(self.script[number - 1])

    def run(self, rounds: int) -> tuple[int, list[Round]]:
        limits = {"rounds": rounds, "classes": 1, "scratch": self.scratch}
        kept, done = train_in_rounds(self.labels, train=self.train, label=self.label, **limits)
        return int(load_model(kept / MODEL, kind="segmenter", stage_name="").weights["round"]), done


def agreement(first: int, second: int) -> float:
    low, high = sorted((first, second))
    return (low / high + (10 - high) / (10 - low)) / 2


def test_a_single_round_is_not_looked_at(tmp_path):
    play = Play(tmp_path, [])
    assert play.run(1) == (1, [Round(1, None, True)])
    assert play.seen == ["train 1 on 2"]


def test_every_round_learns_the_masks_of_the_one_before_while_agreement_rises(tmp_path):
    play = Play(tmp_path, [4, 5, 5, 5])
    kept, done = play.run(3)
    assert kept == 3 and [number.kept for number in done] == [False, False, True]
    assert [one.agreement for one in done] == pytest.approx([agreement(2, 4), agreement(4, 5), 1])
    assert [line for line in play.seen if "train" in line] == ["train 1 on 2", "train 2 on 4", "train 3 on 5"]


@pytest.mark.parametrize(("script", "kept"), [([4, 9, 9], 1), ([4, 4, 4, 4], 2), ([2, 2], 1), ([4, 5, 1, 1], 2)])
def test_the_first_round_that_does_not_raise_it_is_given_up(tmp_path, script, kept):
    found, done = Play(tmp_path, script).run(10)
    assert found == kept and len(done) == kept + 1
    assert [one.number for one in done if one.kept] == [kept]
    values = [one.agreement for one in done]
    assert all(np.diff(values)[:-1] > 0) and values[-1] <= values[-2]


@pytest.mark.parametrize("breaks_at", ["train 1 on 2", "label b by 1", "train 2 on 4", "label a by 2", "train 3 on 5"])
def test_an_interrupted_run_goes_on_behind_what_is_finished(tmp_path, breaks_at):
    script = [4, 5, 5]
    first = Play(tmp_path, script, breaks_at=breaks_at)
    with pytest.raises(KeyboardInterrupt):
        first.run(3)
    second = Play(tmp_path, script)
    kept, done = second.run(3)
    assert kept == 3 and done[-1].agreement == 1
    trainings = [line for line in [*first.seen, *second.seen] if "train" in line and line != breaks_at]
    assert len(trainings) == len(set(trainings))
    assert not list(tmp_path.rglob("*.tmp"))


pairs = hnp.arrays(np.uint8, (3, 2, 4, 5), elements=st.sampled_from([0, 1, 2, 255]))


@given(pairs)
def test_agreement_is_the_mean_iou_over_all_images(maps):
    expected = []
    learned, own = maps[:, 0], maps[:, 1]
    for k in range(3):
        inside = [(a == k, b == k) for a, b in zip(learned[learned != 255], own[learned != 255], strict=True)]
        if union := sum(a or b for a, b in inside):
            expected.append(sum(a and b for a, b in inside) / union)
    found = mean_agreement(learned, own, classes=2)
    assert found == pytest.approx(np.mean(expected)) if expected else np.isnan(found)


# The stage


@pytest.fixture(scope="module")
def project(tmp_path_factory, finished):
    """A tiny project with three rounds, and the data of another."""
    folder = tiny_project(tmp_path_factory.mktemp("rounds"), retrain={"rounds": 3, "steps": 4, "init": "weights"})
    shutil.copytree(finished / "data", folder / "data", dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        yield folder


def outs() -> dict[str, str]:
    files = [FILE["retrain"], *(f"{FILE['results']}/retrain/{name}" for name in ("curves.tsv", "rounds.csv"))]
    return {name: sha256(Path(name)) for name in files}


def test_the_stage_keeps_a_network_and_says_which(project, monkeypatch):
    made = []
    monkeypatch.setattr(
        module, "mean_agreement", lambda *args, **_: made.append(args) or [0.5, 0.7, 0.6][len(made) - 1]
    )
    kept = {}
    save = module.save_model
    monkeypatch.setattr(
        module, "save_model", lambda path, model: kept.update({path.parent.name: model}) or save(path, model)
    )
    run_stage("retrain")
    with open("results/retrain/rounds.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["number", "agreement", "kept"], ["1", "0.5", "False"], ["2", "0.7", "True"], ["3", "0.6", "False"]]
    own = load_model(Path(FILE["retrain"]), kind="segmenter", stage_name="retrain").weights
    assert all(torch.equal(own[key], kept["round2"].weights[key]) for key in own)
    assert not all(torch.equal(own[key], kept["round1"].weights[key]) for key in own)
    assert len(Path("results/retrain/curves.tsv").read_text().splitlines()) == 2
    assert not list(Path(".scratch").iterdir())


def test_the_stage_killed_between_rounds_ends_with_the_same_bits(project, monkeypatch):
    run_stage("retrain")
    whole = outs()
    stage = load_stage("retrain")
    for name in outs():
        Path(name).unlink()
    stage_module = importlib.import_module("stages.retrain")
    rounds_module = importlib.import_module("dsrg.training.rounds")
    calls = []

    def break_in_the_second(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    fit = rounds_module.fit
    monkeypatch.setattr(rounds_module, "fit", break_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        stage_module.retrain(stage)
    assert list(Path(".scratch").glob("retrain-*/round1/labels"))
    monkeypatch.setattr(rounds_module, "fit", fit)
    stage_module.retrain(stage)
    assert outs() == whole
