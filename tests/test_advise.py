"""`dsrg advise`: what is measured without masks, against slow loops and sets that have an answer; and the command."""

import json
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsrg.advise.figure import draw_advice
from dsrg.advise.information import border_steps, foreground_overlap, mutual_information, split_tables
from dsrg.advise.sweep import MEASURES, THRESHOLDS, Advice, Sweep, findings, summary_lines, view_maps
from dsrg.artifacts.seeds_h5 import write_seeds
from dsrg.inference.cams import load_classifier
from dsrg.inspect.reseeding import SeedMaps, live_seeds, own_classes
from dsrg.method.growing import UNLABELED
from dsrg.params import load_params
from helpers import ROOT
from helpers.command import run_dsrg
from helpers.inspected import drawn_maps, imported, opened, seed_maps, seed_settings
from helpers.project import changed_params, recipe

label_maps = arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 2, 255])).map(torch.from_numpy)
tables = arrays(np.float64, (3, 4, 5), elements=st.floats(0, 1)).map(
    lambda t: (t + 1e-3) / (t + 1e-3).sum((1, 2))[:, None, None]
)


# What two claims tell of each other


class TestInformation:
    @settings(max_examples=30, deadline=None)
    @given(tables)
    def test_it_is_what_a_slow_loop_sums(self, tables):
        joint, expected = tables.mean(axis=0), 0.0
        for r in range(4):
            for k in range(5):
                alone = joint[r].sum() * joint[:, k].sum()
                expected += joint[r, k] * math.log2(joint[r, k] / alone)
        bits, error = mutual_information(tables)
        assert bits == pytest.approx(expected) and 0 <= bits + 1e-12 and error >= 0

    @settings(max_examples=30, deadline=None)
    @given(tables)
    def test_a_threshold_tells_no_more_than_all_the_levels(self, tables):
        split, _ = mutual_information(split_tables(tables))
        assert split.shape == (3,) and (split <= mutual_information(tables)[0] + 1e-9).all()

    @settings(max_examples=30, deadline=None)
    @given(tables)
    def test_splitting_is_counting_above_and_below(self, tables):
        split = split_tables(tables)
        for level in range(3):
            np.testing.assert_allclose(split[:, level, 0], tables[:, : level + 1].sum(axis=1))
            np.testing.assert_allclose(split[:, level, 1], tables[:, level + 1 :].sum(axis=1))

    def test_errors_are_those_of_a_mean_over_images(self):
        """The spread of what redrawn sets of images give."""
        rng = np.random.default_rng(0)
        likely = np.array([[0.4, 0.1], [0.15, 0.35]])
        many = rng.dirichlet(6 * likely.ravel(), size=(300, 200)).reshape(300, 200, 2, 2)
        found = [mutual_information(one) for one in many]
        spread = np.std([bits for bits, _ in found])
        assert np.mean([error for _, error in found]) == pytest.approx(spread, rel=0.2)


# Borders, and what two label maps share


@settings(max_examples=30, deadline=None)
@given(label_maps, arrays(np.float32, (3, 3, 4), elements=st.floats(0, 1, width=16)).map(torch.from_numpy))
def test_steps_on_borders_are_those_of_a_slow_loop(labels, values):
    for picture, found in zip(labels, border_steps(labels, values), strict=True):
        steps = []
        for y in range(3):
            for x in range(4):
                for other in ((y + 1, x), (y, x + 1)):
                    if other[0] < 3 and other[1] < 4 and picture[y, x] != picture[other]:
                        steps.append(float((values[:, y, x] - values[:, other[0], other[1]]).norm()))
        assert found.tolist() == pytest.approx([sum(steps), len(steps)], abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(label_maps, label_maps)
def test_what_is_shared_is_what_a_slow_loop_counts(first, second):
    for one, other, found in zip(first, second, foreground_overlap(first, second), strict=True):
        pairs = list(zip(one.flatten().tolist(), other.flatten().tolist(), strict=True))
        both = 2 * sum(a == b and a in (1, 2) for a, b in pairs)
        assert found.tolist() == [both, sum((a in (1, 2)) + (b in (1, 2)) for a, b in pairs)]


# The sweep


def swept_over(*maps: SeedMaps, views: dict | None = None, **settings: object) -> Sweep:
    sweep = Sweep(seed_settings(**settings), fg=[0.25, 0.5, 0.75], bg=[0.25, 0.5])
    for one in maps:
        sweep.add(own_classes(one, 0), torch.zeros(3, *one.saliency.shape[1:]), views or {})
    return sweep


class TestSweep:
    @pytest.mark.parametrize("use", ["agree", "none"])
    @pytest.mark.parametrize("conflict", ["smaller", "unlabeled"])
    @settings(max_examples=10, deadline=None)
    @given(maps=seed_maps)
    def test_its_seeds_are_the_stage_s_at_every_pair(self, use, conflict, maps):
        """Whatever their tags: classes that an image does not show are left out and the others counted from 1."""
        sweep = swept_over(use=use, conflict=conflict)
        made = sweep.seeds(own_classes(maps, 0)).unflatten(0, (3, 2))
        numbers = torch.full((256,), UNLABELED)
        tags = maps.present[0].nonzero()[:, 0]
        numbers[: len(tags)] = tags
        for row, fg_thresh in enumerate(sweep.fg):
            for column, bg_thresh in enumerate(sweep.bg):
                expected = live_seeds(maps, sweep.settings, fg_thresh=fg_thresh, bg_thresh=bg_thresh)[0]
                assert torch.equal(numbers[made[row, column].long()], expected.long())

    @settings(max_examples=15, deadline=None)
    @given(maps=seed_maps)
    def test_its_shares_are_counted_from_the_claims(self, maps):
        sweep = swept_over(maps, use="none", conflict="unlabeled")
        found, tagged = sweep.measures(), maps.present[0, 1:]
        for row, fg_thresh in enumerate(sweep.fg):
            for column, bg_thresh in enumerate(sweep.bg):
                fires = (maps.cams[0] > fg_thresh * maps.cams[0].amax(dim=(1, 2), keepdim=True))[tagged]
                claims = fires.sum(dim=0) + (maps.saliency[0] < bg_thresh)
                place = row, column
                assert found["coverage"][place] == pytest.approx((claims == 1).float().mean().item())
                disputed, claimed = (claims > 1).sum().item(), (claims > 0).sum().item()
                assert found["conflict"][place] == pytest.approx(disputed / claimed if claimed else np.nan, nan_ok=True)

    def test_what_is_shared_with_a_view(self):
        one = drawn_maps(step_map(4), 1 - step_map(4)[0] * 0, np.zeros((6, 8), np.uint8), [1])
        other = drawn_maps(step_map(5), 1 - step_map(5)[0] * 0, np.zeros((6, 8), np.uint8), [1])
        sweep = swept_over(one, views={"flip": [one], "scale": [one, other]}, use="none")
        assert np.allclose(sweep.measures()["flip"], 1)
        assert np.allclose(sweep.measures()["scale"], (48 + 2 * 18) / (48 + 24 + 18))
        assert np.isnan(swept_over(one, use="none").measures()["flip"]).all(), "there was no view"

    def test_borders_on_edges(self):
        """The object's border lies on the image's only edge: all the image's steps are there."""
        maps = drawn_maps(step_map(4), np.ones((6, 8), np.float32), np.zeros((6, 8), np.uint8), [1])
        for column, expected in ((4, (6 * 7 + 5 * 8) / 6), (2, 0.0)):
            sweep = Sweep(seed_settings(use="none"), fg=[0.5], bg=[0.25])
            sweep.add(own_classes(maps, 0), torch.from_numpy(step_map(column)), {})
            assert sweep.measures()["image_edges"] == pytest.approx(np.array([[expected]]))
            assert np.isnan(sweep.measures()["saliency_edges"]), "flat saliency has no edge to lie on"

    def test_tags_without_seeds(self):
        cams = np.concatenate([step_map(4), np.zeros((1, 6, 8), np.float32)])
        maps = drawn_maps(cams, np.ones((6, 8), np.float32), np.zeros((6, 8), np.uint8), [1, 2])
        assert np.allclose(swept_over(maps, use="none").measures()["tags_seeded"], 0.5)


def step_map(column: int) -> np.ndarray:
    """float32 (1, 6, 8): 0 left of a column, 1 from there on."""
    return np.repeat((np.arange(8) >= column)[None].astype(np.float32), 6, axis=0)[None]


# The advice


def noisy_set(count: int, *, fg_edge: float = 0.6, bg_edge: float = 0.3) -> Sweep:
    """Images with an object on the right half, which both maps show above their edges but for one cell in ten."""
    rng, sweep = np.random.default_rng(0), Sweep(seed_settings(use="none"))
    truth = np.repeat((np.arange(20) >= 10)[None], 20, axis=0)
    for _ in range(count):
        wrong = [np.where(rng.random((20, 20)) < 0.1, ~truth, truth) for _ in range(2)]
        cam, saliency = (
            np.where(one, rng.uniform(edge, 1, (20, 20)), rng.uniform(0, edge, (20, 20))).astype(np.float32)
            for one, edge in zip(wrong, (fg_edge, bg_edge), strict=True)
        )
        cam[0, 0] = 1.0
        sweep.add(drawn_maps(cam[None], saliency, np.zeros((20, 20), np.uint8), [1]), torch.zeros(3, 20, 20), {})
    return sweep


class TestAdvice:
    params = load_params(ROOT / "recipes" / "shapes.yaml")

    def test_it_finds_the_thresholds_that_the_set_was_made_with(self, tmp_path):
        found = findings(noisy_set(30), self.params)
        assert found["advised"]["best"] == {"fg_thresh": 0.6, "bg_thresh": 0.3}
        assert found["advised"]["range"]["fg_thresh"] == [0.6, 0.6] and found["images"] == 30
        assert found["information"]["fg_thresh"]["bits"][THRESHOLDS.index(0.6)] > 0.2
        draw_advice(tmp_path / "a.png", found)
        assert min(cv2.imread(str(tmp_path / "a.png")).shape[:2]) > 500

    @pytest.mark.parametrize("tags", [[], [1]], ids=["no tags", "plain saliency"])
    def test_a_witness_who_says_nothing_is_not_believed(self, tags):
        maps = drawn_maps(step_map(4), np.ones((6, 8), np.float32), np.zeros((6, 8), np.uint8), tags)
        found = findings(swept_over(maps, maps, use="none"), self.params)
        assert found["advised"] is None and "tell nothing of each other" in found["reason"]
        assert summary_lines(found) == [found["reason"]]

    @pytest.mark.parametrize(
        "change, reason",
        [
            ({"method": "cam"}, "saliency.method: cam"),
            ({"method": "gradient"}, "gradient"),
            ({"with_cam": True}, "with_cam"),
        ],
    )
    def test_saliency_by_the_classifier_is_no_second_witness(self, change, reason):
        params = self.params.model_copy(update={"saliency": self.params.saliency.model_copy(update=change)})
        found = findings(noisy_set(5), params)
        assert found["advised"] is None and reason in found["reason"] and found["measures"]["coverage"]

    def test_the_range_goes_outwards_as_far_as_the_error(self):
        bits = np.array([0.29, 0.1, 0.28, 0.3, 0.26, 0.28, 0.1])
        one = Advice([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], bits, np.full(7, 0.03))
        assert one.best == 3 and one.range == (0.3, 0.4)
        assert one._replace(error=np.full(7, 0.045)).range == (0.3, 0.6)
        assert one._replace(error=np.full(7, 0.25)).range == (0.1, 0.7)
        assert one.is_informative and not one._replace(error=np.full(7, 0.3)).is_informative

    def test_words(self):
        lines = summary_lines(findings(noisy_set(30), self.params))
        assert lines[0] == "seeds.fg_thresh: 0.6 to 0.6, best 0.6 (params.yaml: 0.15)"
        assert "unknown of foreground seeds" in lines[2], "no views were looked at"
        assert lines[-1] == "To try the best: dvc exp run -S seeds.fg_thresh=0.6 -S seeds.bg_thresh=0.3"


# The command


class TestCommand:
    def test_advice_without_masks(self, finished_copy):
        shutil.rmtree(finished_copy / "data/masks")
        (finished_copy / "data/ground_truth.csv").unlink()
        output = run_dsrg("advise", "--images", "9", "--out", "advice")
        found = json.loads(Path("advice/advice.json").read_text())
        assert found["images"] == 9 and set(found["measures"]) == set(MEASURES)
        assert found["reason"] in output and cv2.imread("advice/advice.png") is not None
        shapes = {np.shape(found["measures"][name]) for name in MEASURES}
        assert shapes == {(len(THRESHOLDS), len(THRESHOLDS))}
        run_dsrg("advise", "--images", "9", "--out", "again")
        assert Path("again/advice.json").read_bytes() == Path("advice/advice.json").read_bytes()

    def test_coverage_is_that_of_the_stage_s_seeds(self, finished_copy):
        params = finished_copy / "params.yaml"
        params.write_text(changed_params(params, {"seeds": {"fg_thresh": 0.3, "bg_thresh": 0.4}}))
        project = opened()
        shares = [project.live(one, project.before, growing=False)["coverage"]["image"][1] for one in project.seeds.ids]
        run_dsrg("advise")
        found = json.loads(Path("results/advise/advice.json").read_text())
        place = THRESHOLDS.index(0.3), THRESHOLDS.index(0.4)
        assert found["measures"]["coverage"][place[0]][place[1]] == pytest.approx(np.mean(shares), abs=1e-6)

    def test_a_mirrored_look_is_turned_back(self, finished, monkeypatch):
        monkeypatch.chdir(finished)
        project = opened()
        classifier = load_classifier(project.paths.cam)
        image = project.image("train0000")
        tags = torch.ones(1, len(project.classes) + 1, dtype=torch.bool)
        plain = view_maps(classifier, [image], tags, project.params, 1.0, False)
        turned = view_maps(classifier, [np.ascontiguousarray(image[:, ::-1])], tags, project.params, 1.0, True)
        assert torch.allclose(plain.flip(3), turned, atol=2e-3) and plain.std() > 0  # as the seeds file keeps them

    @pytest.mark.parametrize(
        "key, value, said",
        [
            ("crf", recipe()["seeds"]["crf"] | {"use": "replace"}, ["threshold", "seeds.crf"]),
            ("rule", "harmonic", ["threshold", "seeds.rule"]),
            ("cam", None, ["train_cam"]),
            ("seeds", None, ["make_seeds"]),
        ],
    )
    def test_thresholds_that_do_not_matter_and_what_is_missing(self, finished_copy, key, value, said):
        if value is None:
            getattr(opened().paths, key).unlink()
        else:
            params = finished_copy / "params.yaml"
            params.write_text(changed_params(params, {"seeds": {key: value}}))
        output = run_dsrg("advise", code=2)
        assert all(word in output for word in said) and not Path("results/advise").exists()

    def test_imported_seeds_and_those_of_other_images(self, finished_copy):
        project, index = opened(), finished_copy / "data/index.csv"
        before = index.read_text()
        index.write_text(before.replace("train0003,", "other0003,"))
        assert "no seeds for other0003" in run_dsrg("advise", code=2)
        index.write_text(before)
        rows, grid = imported(project), project.seeds.seeds.shape[1]
        write_seeds(project.paths.seeds, rows, count=len(rows), grid=grid, classes=project.classes, params="{}")
        assert "imported" in run_dsrg("advise", code=2)
