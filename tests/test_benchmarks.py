"""What benchmarks/ stands on: the params they change, the figures they keep, the sums they print; that timings run."""

import importlib
import json
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from benchmarks import experiments, readme, switches, table1, table2
from benchmarks.estimate import estimate
from benchmarks.experiments import Experiments, params_digest, recipe_in_place
from benchmarks.floors import operations
from benchmarks.growth import PAPER
from benchmarks.released_growth import released_growth
from benchmarks.seed_quality import seed_quality
from benchmarks.upper_limit import on_true_masks
from dsrg.data.classes import VOC_CLASSES
from dsrg.errors import InputError
from dsrg.method.grid import UNLABELED
from dsrg.method.growing import grow
from dsrg.method.metrics import confusion_matrix
from dsrg.method.weak import LOSSES
from dsrg.params import Params, load_params
from helpers import ROOT
from helpers.command import run_command
from helpers.project import run_experiment, tiny_project

yaml = YAML(typ="safe", pure=True)
RECIPES = [yaml.load(path.read_text(encoding="utf-8")) for path in (ROOT / "recipes").glob("*.yaml")]


TABLE2 = [row.changes for row in (*table2.ROWS, table2.SEC, table2.OPPONENT)]
TABLE1 = [row.all_changes(8) for row in table1.ROWS]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the demo's params."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


@pytest.mark.parametrize("changes", [*switches.SWITCHES, *TABLE2, *TABLE1, table1.QUICK])
def test_every_row_is_valid_params(changes):
    for recipe in RECIPES:
        values = deepcopy(recipe)
        for change in changes:
            key, value = change.split("=")
            *sections, last = key.split(".")
            inner = reduce(getitem, sections, values)
            assert last in inner
            inner[last] = yaml.load(value)
        Params.model_validate(values)


class TestParams:
    def test_digest_tells_values_apart_and_not_their_spelling(self, project):
        plain = params_digest([])
        assert params_digest(["grow.fg_thresh=0.850"]) == plain == params_digest(["seed=0", "grow.fg_thresh=0.85"])
        assert len({plain, params_digest(["grow.fg_thresh=0.8"]), params_digest(["seed=1"])}) == 3
        text = Path("params.yaml").read_text()
        Path("params.yaml").write_text(f"# a comment\n{text}")
        assert params_digest([]) == plain

    @pytest.mark.parametrize("change", ["grow.fg_tresh=0.8", "growth.on=crf", "sead=1"])
    def test_an_unknown_key_is_named(self, project, change):
        with pytest.raises(InputError, match=change):
            params_digest([change])

    def test_recipe_is_there_meanwhile_only(self, project):
        before = Path("params.yaml").read_bytes()
        recipe = ROOT / "recipes" / "voc2012-mobilenet.yaml"
        with pytest.raises(KeyboardInterrupt), recipe_in_place(recipe):
            assert Path("params.yaml").read_text() == recipe.read_text()
            raise KeyboardInterrupt
        assert Path("params.yaml").read_bytes() == before


class TestExperiments:
    @pytest.fixture
    def runs(self, project, monkeypatch):
        """Commands that would run, instead of DVC's work; a network's figures are the number of its run."""
        runs = []
        monkeypatch.setattr(experiments, "subprocess", SimpleNamespace(run=lambda command, **_: runs.append(command)))
        monkeypatch.setattr(experiments, "evaluated", lambda network: {"miou": len(runs)})
        return runs

    def test_changes_do_not_pile_up(self, runs, monkeypatch):
        """`dvc exp run --set-param` changes params.yaml for good: the next experiment must start from the recipe."""
        seen = []

        def as_dvc_does(command, **_):
            params = Path("params.yaml")
            seen.append(params.read_text())
            params.write_text(seen[-1].replace("on: crf", "on: softmax"))

        monkeypatch.setattr(experiments, "subprocess", SimpleNamespace(run=as_dvc_does))
        table = Experiments(Path("a.json"), common=[], fresh=False)
        for number in range(2):
            table.figures("x", [f"seed={number}", "grow.on=softmax"], network="dsrg")
        first, second = seen[0], seen[2]  # each experiment calls DVC twice
        assert first == second and "on: crf" in first

    def test_goes_on_where_it_was(self, runs):
        first = Experiments(Path("a.json"), common=[], fresh=False)
        known = first.figures("x", ["seed=1"], network="dsrg")
        count = len(runs)
        again = Experiments(Path("a.json"), common=[], fresh=False)
        assert again.figures("another name", ["seed=1"], network="dsrg") == known and len(runs) == count
        assert again.figures("x", ["seed=1"], network="retrain") != known and len(runs) > count
        assert len(json.loads(Path("a.json").read_text())["experiments"]) == 2
        fresh = Experiments(Path("a.json"), common=[], fresh=True)
        assert fresh.figures("x", ["seed=1"], network="dsrg")["miou"] > known["miou"]


class TestTable2:
    def test_the_papers_means_are_those_of_its_classes(self):
        """To the digit that it prints; its second row's own numbers have the mean 53.7."""
        for row in table2.ROWS:
            theirs = row.in_paper(VOC_CLASSES)
            assert row.in_paper(["owl"]) == {} and list(theirs) == ["background", *VOC_CLASSES]
            assert sum(theirs.values()) / 21 == pytest.approx(float(row.paper), abs=0.11)


class TestTables:
    """The programs of tables from the command line on, experiments but for DVC's work."""

    REST = {"iou_crf": {"background": 0.75, "cat": 0.25}, "absent": []}

    @pytest.fixture(autouse=True)
    def found(self, project, monkeypatch):
        figures = {"miou": 0.25, "miou_crf": 0.5} | self.REST
        monkeypatch.setattr(experiments, "subprocess", SimpleNamespace(run=lambda command, **_: None))
        monkeypatch.setattr(experiments, "evaluated", lambda network: figures)
        for name in ("table1", "table2", "switches"):
            monkeypatch.setattr(f"benchmarks.{name}.RESULTS", project)

    def test_table2(self):
        recipe = ROOT / "recipes/voc2012-vgg16.yaml"
        run_command(table2.main, "--recipe", recipe, "--seeds", "0", "1", "--neighbors")
        lines = Path("results/table2.md").read_text().splitlines()
        assert lines[-1].endswith("| 25.0 ± 0.0 | 50.0 ± 0.0 |  | 75.0 | 25.0 |")
        assert len(lines) == 4 + 2 * len(table2.ROWS) + 2 and Path("results/table2.png").exists()
        assert len(json.loads(Path("table2-voc2012-vgg16.json").read_text())["experiments"]) == 2 * 6

    def test_table2_with_full_supervision_sums_up_a_ladder(self, monkeypatch):
        monkeypatch.setattr(experiments, "fully_supervised", lambda key: {"miou": 0.6, "miou_crf": 0.7} | self.REST)
        Path("ladder.json").write_text('{"vgg16": {}, "mobilenet": {"baseline": {}, "dsrg": {}}}')
        options = ["--full", "--ladder", "mobilenet", "--only", "baseline", "--only", "full", "--seeds", "0", "1"]
        assert "| full supervision, balanced loss | 60.0 ± 0.0 | 70.0 ± 0.0 |" in run_command(table2.main, *options)
        assert json.loads(Path("ladder.json").read_text()) == {
            "vgg16": {},
            "mobilenet": {
                "baseline": {"miou": [0.25, 0.25], "miou_crf": [0.5, 0.5]},
                "dsrg": {},
                "full": {"miou": [0.6, 0.6], "miou_crf": [0.7, 0.7]},
                "full_balanced": {"miou": [0.6, 0.6], "miou_crf": [0.7, 0.7]},
            },
        }

    def test_full_supervision_has_the_steps_of_the_longer_training(self):
        for recipe, steps, loss in (("mobilenet", 915, "balanced"), ("vgg16", 20_000, "cross_entropy")):
            params = on_true_masks(load_params(ROOT / f"recipes/voc2012-{recipe}.yaml"))
            assert (params.retrain.steps, params.retrain.loss) == (steps, loss)

    def test_table1(self):
        said = run_command(table1.main, "--seeds", "0", "1", "--set", "data.root=x")
        text = Path("results/table1.md").read_text()
        assert said.startswith("Predicted before the run")
        lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
        assert len(lines) == len(table1.ROWS) + len(table1.NOT_RUN)
        assert lines[5] == "| CCNN | 25.0 ± 0.0 | 50.0 ± 0.0 | 35.3 | 35.6 | b |"
        assert "| *MIL-seg* |  |  | 42.0 | 40.6 | *not run: MCG" in text and "swapped test scores" in text
        assert cv2.imread("results/table1.png").shape[0] > 500
        found = json.loads(Path("table1.json").read_text())
        ccnn = {"miou": [0.25] * 2, "miou_crf": [0.5] * 2, "published_val": 35.3, "published_test": 35.6}
        assert list(found) == [row.name for row in table1.ROWS] and found["ccnn"] == ccnn
        assert len(json.loads(Path("table1-params.json").read_text())["experiments"]) == 2 * len(table1.ROWS)

    def test_every_mark_of_table1_is_explained_and_every_loss_has_a_row(self):
        marks = {mark for row in table1.ROWS for mark in row.marks}
        remarks, footnotes = table1.TABLE["remarks"], table1.TABLE["footnotes"]
        assert all(mark in remarks or f"({mark})" in footnotes for mark in marks) and {*remarks} <= marks
        (*_, new) = table1.read_rows(table1.TABLE["rows"], [*LOSSES, "power_mean"])
        assert new.name == new.title == "power_mean" and new.changes == ("dsrg.objective=power_mean",)

    def test_switches(self):
        said = run_command(switches.main, "--set", "data.root=elsewhere", "--only", "grow.on")
        assert said.count("50.0") == 4
        rows = json.loads(Path("switches-params.json").read_text())["experiments"].values()
        assert [row["changes"] for row in rows] == [[], ["grow.on=softmax"], ["grow.on=both"]]  # it is crf already


def test_table1_quick(tmp_path, monkeypatch):
    """Two methods from the drawing to the table, with DVC's work done here."""
    monkeypatch.chdir(tiny_project(tmp_path / "project"))
    monkeypatch.setattr(table1, "RESULTS", tmp_path)

    stages = ["draw_shapes", "prepare", "train_cam", "make_seeds", "train_dsrg"]
    runs = SimpleNamespace(run=lambda command, **_: run_experiment(command, stages))
    monkeypatch.setattr(experiments, "subprocess", runs)
    said = run_command(table1.main, "--quick", "--only", "ccnn", "--only", "em_adapt_rate6")
    assert said.index("Predicted before the run") < said.index("| CCNN |")
    found = json.loads((tmp_path / "table1-quick.json").read_text())
    assert [*found] == ["ccnn", "em_adapt_rate6"] and all(0 <= found[name]["miou"][0] <= 1 for name in found)
    (_, second) = json.loads((tmp_path / "table1-params-quick.json").read_text())["experiments"].values()
    assert second["changes"][1:] == ["dsrg.objective=em_adapt", "network.head=largefov", "network.rates=[6]"]


def test_miou_is_over_the_classes_of_the_masks():
    run = {"iou": {"a": 0.5, "b": 0.0}, "iou_crf": {"a": 0.25}, "absent": ["b"], "miou": 0.25, "miou_crf": 0.25}
    assert experiments.over_truth(run) == run | {"miou": 0.5}


class TestReadme:
    def test_its_tables_are_those_of_the_figures(self):
        """Run `python -m benchmarks.readme` where this fails."""
        text = readme.README.read_text()
        assert readme.updated(text) == text

    def test_every_program_and_every_table_is_in_it(self):
        text = readme.README.read_text()
        programs = [path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()]
        assert len(programs) > 10 and all(f"python -m benchmarks.{path.stem}" in text for path in programs)
        assert all(f"<!-- {name} -->" in text for name in readme.TABLES)

    def test_limits_by_hand(self, tmp_path, monkeypatch):
        monkeypatch.setattr(readme, "RESULTS", tmp_path)
        text = "a\n<!-- limits -->\nold\n<!-- end -->\nb\n"
        assert readme.updated(text).count("| not measured yet |") > 5
        timed = {"ours, CPU": {"median_s": 0.012}, "released loops in Python": {"times_ours": {"median": 99.9}}}
        timed["released loops in Python"]["median_s"] = 1.2
        growth = {"machine": {"device": "CPU"}, "sides": {"41 x 41": timed}, "floor_s": {"41 x 41": 0.001}}
        (tmp_path / "growth.json").write_text(json.dumps(growth))
        lines = readme.updated(text).splitlines()
        assert lines[:2] == ["a", "<!-- limits -->"] and lines[-2:] == ["<!-- end -->", "b"]
        assert lines[4].endswith("| at least 100 times | 99.9 times | 1200 times | **no** |")
        assert lines[5].endswith("| at most 12 ms | 12 ms | 1 ms | yes |")
        assert lines[6].endswith("| at most 500 ms | not measured yet |  |  |")
        assert lines[7].endswith("| at most 0.5 ms | no card at hand |  |  |")


class TestTimings:
    @pytest.fixture(autouse=True)
    def settings(self, monkeypatch):
        """No worker processes; torch's and OpenCV's settings put back."""
        monkeypatch.setenv("DSRG_WORKERS", "1")
        threads, filling = (torch.get_num_threads(), cv2.getNumThreads()), torch.utils.deterministic
        before = torch.are_deterministic_algorithms_enabled(), filling.fill_uninitialized_memory
        yield
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
        torch.use_deterministic_algorithms(before[0])
        filling.fill_uninitialized_memory = before[1]

    @pytest.mark.parametrize("name", ["growth", "crf", "step", "throughput", "memory", "full_size", "predicting"])
    def test_a_quick_run_writes_its_figures_and_the_readme_finds_them(self, name, tmp_path, monkeypatch):
        monkeypatch.setattr(readme, "RESULTS", tmp_path)
        out = tmp_path / f"{name}{'-quick' * (name in ('step', 'throughput', 'predicting'))}.json"
        run_command(importlib.import_module(f"benchmarks.{name}").main, "--quick", "--out", out)
        figures = json.loads(out.read_text())
        assert {"device", "cores", "threads", "torch", "others"} <= set(figures.pop("machine"))
        assert list(numbers(figures)) and min(numbers(figures)) >= 0
        table = {"throughput": readme.rates, "memory": readme.memory, "full_size": readme.machines}
        header, *rows = table.get(name, readme.times)()
        assert rows and {len(row) for row in rows} == {len(header)}
        assert any("classifier's step" in row[0] for row in rows) == (name == "step")

    @pytest.mark.parametrize(("groups", "outputs"), [(1, 6), (4, 8), (8, 8)])
    @pytest.mark.parametrize("first", [True, False])
    def test_operations_of_a_convolution_and_its_gradients(self, groups, outputs, first):
        """A multiplication and an addition a weight and place; each gradient as much again, the image's if wanted."""
        layer = torch.nn.Conv2d(8, outputs, 3, stride=2, padding=1, groups=groups)
        images = torch.ones(2, 8, 9, 9, requires_grad=not first)
        forward = 2 * (2 * outputs * 5 * 5) * (8 // groups * 3 * 3)
        assert operations(lambda: layer(images)) == forward
        assert operations(lambda: layer(images).sum().backward()) == (2 if first else 3) * forward

    @pytest.mark.parametrize("recipe", ["voc2012-vgg16", "voc2012-mobilenet"])
    def test_an_estimate_by_hand(self, recipe):
        """Steps times seconds an image times batch, images over images a second."""
        params = load_params(ROOT / "recipes" / f"{recipe}.yaml")
        parts = {"step, with": {"median_s": 6}, "step, without": {"median_s": 4}}
        step = {"batch": 2, "parts": parts, "cam_step": {"batch": 4, "median_s": 20}}
        speeds = {"seeds": 2, "pseudo labels": 4}
        work = {name: {"2 cores": {"images_per_s": {"median": speed}}} for name, speed in speeds.items()}
        assert estimate(params, step, {"work": work}) == {
            "train_cam": params.cam.steps * params.cam.batch * 5,
            "make_seeds": 10_582 / 2,
            "train_dsrg": params.dsrg.steps * params.dsrg.batch * 3,
            "make_pseudo_labels": 10_582 / 4,
            "retrain": params.retrain.steps * params.retrain.batch * 2,
        }

    def test_the_released_loops_and_ours_grow_alike(self):
        rng = np.random.default_rng(0)
        present = np.array([[True, True, False, True], [True, False, True, True]])
        labels = [[*np.flatnonzero(tags), UNLABELED] for tags in present]
        seeds = np.stack([rng.choice(some, (9, 11), p=[0.1] * 3 + [0.7]) for some in labels]).astype(np.uint8)
        probs = rng.choice([0.5, 0.9, 1.0], (2, 4, 9, 11))
        grown = grow(*map(torch.from_numpy, (seeds, probs, present)), **PAPER).numpy()
        assert (grown != seeds).any()
        for given, values, tags, expected in zip(seeds, probs, present, grown, strict=True):
            cues = released_growth((given == np.arange(4)[:, None, None]).astype(float), values, tags, **PAPER)
            assert cues.sum(axis=0).max() == 1
            np.testing.assert_array_equal(np.where(cues.any(axis=0), cues.argmax(axis=0), UNLABELED), expected)


def numbers(value):
    """All numbers in some JSON."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


def test_seed_quality_of_two_images_counted_by_hand():
    """Five seeds of a cat of four cells, two of them right; its other image has none, nor has the dog there."""
    none = UNLABELED
    masks = np.uint8([[0, 0, 0, 0, 1, 1, 1, none], [1, 2, 2, 0, 0, 0, 0, 0]])
    seeds = np.uint8([[0, 1, 1, 1, 1, 1, none, 1], [none, none, 0, 0, none, none, none, none]])
    confusions = np.stack([confusion_matrix(*pair, classes=3) for pair in zip(masks, seeds, strict=True)])
    tags = np.array([[True, False, False], [True, True, False]])
    found = seed_quality(confusions, tags, ["cat", "dog", "sofa"])
    assert found["classes"]["cat"] == {"precision": 0.4, "recall": 0.5, "area": 1.25, "on_background": 0.75}
    no_seeds = {"precision": np.nan, "recall": 0, "area": 0, "on_background": 0}
    assert found["classes"]["dog"] == pytest.approx(no_seeds, nan_ok=True), "a class without seeds is not left out"
    assert all(np.isnan(value) for value in found["classes"]["sofa"].values())
    assert found["fg_share"] == 5 / 15 and found["bg_share"] == 3 / 15, "void cells are not counted"
    assert found["tags_seeded"] == 1 / 3 and found["tags_mostly_right"] == 0
    assert found["wrong_on_background"] == 1 and found["bg_precision"] == 2 / 3
