"""The order of clicks: each measure against slow loops, and what comes first."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks import experiments, points
from dsrg.inspect.clicks import (
    ClickValue,
    Evidence,
    click_value,
    disputed_share,
    flipped_share,
    unseeded_tags,
    unsure_share,
    work_minutes,
)
from dsrg.method.grid import UNLABELED
from helpers.command import run_command
from helpers.project import run_experiment, tiny_project

H, W, C = 4, 5, 3
PARAMS = SimpleNamespace(
    seeds=SimpleNamespace(fg_thresh=0.5, bg_thresh=0.5),
    clicks=SimpleNamespace(unsure_below=0.5, per_image=6.0, per_click=3.0),
)
levels = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
cells = arrays(np.float32, (H, W), elements=levels)
labels = arrays(np.uint8, (H, W), elements=st.sampled_from([0, 1, 2, 3, UNLABELED]))
presence = arrays(np.bool_, C).map(lambda tags: np.concatenate([[True], tags]))
evidence = st.builds(
    Evidence,
    presence,
    labels,
    st.lists(cells, max_size=C),
    st.none() | cells,
    st.lists(labels, max_size=4),
    st.none() | arrays(np.float32, (C + 1, H, W), elements=levels),
)


def largest_region(unsure: np.ndarray) -> int:
    """Cells of the largest region, by walking from cell to neighbor."""
    left, largest = {(y, x) for y in range(H) for x in range(W) if unsure[y, x]}, 0
    while left:
        todo, size = [left.pop()], 0
        while todo:
            y, x = todo.pop()
            size += 1
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            todo += near
        largest = max(largest, size)
    return largest


@settings(max_examples=60, deadline=None)
@given(evidence)
def test_each_measure_is_what_slow_loops_count(known):
    everywhere = [(y, x) for y in range(H) for x in range(W)]
    assert unseeded_tags(known.seeds, known.present) == [
        k for k in range(1, C + 1) if known.present[k] and all(known.seeds[at] != k for at in everywhere)
    ]
    flips = sum(
        any(a[at] != b[at] and UNLABELED not in (a[at], b[at]) for a, b in pairwise(known.grown)) for at in everywhere
    )
    assert flipped_share(known.grown) * H * W == pytest.approx(flips)
    if known.saliency is not None:
        disputed = sum(any(cam[at] > 0.5 for cam in known.cams) != (known.saliency[at] >= 0.25) for at in everywhere)
        found = disputed_share(known.cams, known.saliency, fg_thresh=0.5, bg_thresh=0.25)
        assert found * H * W == pytest.approx(disputed)
    if known.probs is not None:
        candidates = [known.probs[k] for k in range(C + 1) if known.present[k]]
        unsure = np.array([[all(one[y, x] < 0.5 for one in candidates) for x in range(W)] for y in range(H)])
        assert unsure_share(known.probs, known.present, below=0.5) * H * W == pytest.approx(largest_region(unsure))


@settings(max_examples=60, deadline=None)
@given(evidence, evidence)
def test_more_tags_without_a_seed_come_first(one, other):
    a, b = click_value(one, PARAMS), click_value(other, PARAMS)
    assert 0 <= a.priority <= C + 1
    if len(a.unseeded) > len(b.unseeded):
        assert a.priority >= b.priority
    assert bool(a.reasons(["cat", "dog", "cow"])) == (a.priority > 0)


def test_reasons_are_words_with_what_matters_most_first():
    value = ClickValue([1, 3], {"flipped": 0.125, "disputed": 0.5, "unsure": 0.0})
    assert value.reasons(["cat", "dog", "cow"]) == [
        "no seed of cat, cow",
        "CAM and saliency disagree on 50%",
        "growth flips between steps on 12%",
    ]
    assert value.priority == 2.5 and ClickValue([], {}).priority == 0


def test_only_what_is_known_counts():
    known = Evidence(np.array([True, True, False, False]), np.full((H, W), UNLABELED, np.uint8))
    assert click_value(known, PARAMS) == ClickValue([1], {"flipped": 0.0})


def test_minutes_of_work_by_hand():
    present = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 1]], bool)
    assert work_minutes(present, PARAMS) == (3 * 6 + 3 * 3) / 60


# What clicks bring: benchmarks.points


@given(arrays(np.bool_, (6, 7)).filter(np.any))
def test_the_deepest_pixel_is_the_one_farthest_from_all_that_is_outside(region):
    x, y, inside = points.deepest_pixel(region)
    parts, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    sizes = [0, *((labels == part).sum() for part in range(1, parts))]
    assert region[y, x] and sizes[labels[y, x]] == max(sizes)
    own = np.pad(labels == labels[y, x], 1)

    def depth(x: int, y: int) -> float:
        return min((x + 1 - u) ** 2 + (y + 1 - v) ** 2 for v, u in zip(*np.nonzero(~own), strict=True))

    if sizes.count(max(sizes)) == 1:
        assert depth(x, y) == pytest.approx((inside + 1) ** 2, rel=1e-4)
        assert depth(x, y) == max(depth(u, v) for v, u in zip(*np.nonzero(labels == labels[y, x]), strict=True))


def test_larger_shares_hold_the_images_of_smaller_ones():
    order = [f"i{k}" for k in range(40)]
    few, more, every = (points.chosen(points.Row("", "random", share), order, seed=1) for share in (0.05, 0.2, 1))
    assert few == more[:2] and more == every[:8] and sorted(every) == sorted(order) and every != order
    assert points.chosen(points.Row("", "order", 0.2), order, seed=1) == order[:8]
    assert points.chosen(points.Row("", "random", 0.2), order, seed=2) != more


def test_a_quick_run_puts_points_into_the_seeds_and_tables_what_they_bring(tmp_path, monkeypatch):
    """With DVC's work done here: params are set and the stages up to the network run."""
    monkeypatch.chdir(tiny_project(tmp_path / "project"))
    monkeypatch.setattr(points, "RESULTS", tmp_path)
    seen = []

    def dvc(command: list[str], **_: object) -> None:
        stages = ["make_seeds", "train_dsrg"]
        if run_experiment(command, stages if seen else ["draw_shapes", "prepare", "train_cam", *stages]):
            seen.append(json.loads(Path("results/make_seeds/metrics.json").read_text()).get("points", {}))

    monkeypatch.setattr(experiments.subprocess, "run", dvc)
    before = Path("params.yaml").read_text()
    for _ in range(2):  # the second takes all from the JSON
        assert "| all | 12 |" in run_command(points.main, "--quick", "--only", "order-20", "--only", "all")
    rows = json.loads((tmp_path / "points.json").read_text())["demo-quick"]["rows"]
    assert [rows[name]["images"] for name in ("tags", "order-20", "all")] == [[0], [2], [12]]
    assert [counts.get("points", 0) for counts in seen] == [rows[name]["clicks"][0] for name in rows] and len(seen) == 3
    assert Path("data/points.csv").read_text() == "image,x,y,class,radius,stroke\n"
    assert Path("params.yaml").read_text() == before and cv2.imread("results/points.png") is not None
    (tags,) = (run for run in json.loads((tmp_path / "points-demo-quick.json").read_text())["experiments"].values()
               if "order" in run)  # fmt: skip
    assert len(tags["order"]) == 12 and all(tags["reasons"]) and tags["minutes"] > 1
