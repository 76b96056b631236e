"""dsrg.method.seeds: drawn pictures, the rules where claims disagree, and literal loops."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dsrg.method.grid import UNLABELED
from dsrg.method.seeds import harmonic_seeds, make_seeds, normalize_cams, with_crf_labels

RULES = {"fg_thresh": 0.2, "bg_thresh": 0.06}
every_conflict_rule = pytest.mark.parametrize("conflict", ["smaller", "unlabeled"])


def seed_picture(saliency: list[str], *cams: list[str], tags: str = "AB", conflict: str = "smaller") -> list[str]:
    """Maps drawn as digits, tenths, and seeds as letters: 0 background, A B the classes, a dot where unlabeled."""
    present = torch.tensor([[True, *(letter in tags for letter in "AB"[: len(cams)])]])
    drawn_cams = torch.stack([tenths(cam) for cam in cams])[None]
    seeds = make_seeds(drawn_cams, tenths(saliency)[None], present, **RULES, conflict=conflict)
    return ["".join("." if label == UNLABELED else "0AB"[label] for label in row) for row in seeds[0].tolist()]


def tenths(rows: list[str]) -> Tensor:
    return torch.tensor([[int(digit) for digit in row] for row in rows]) / 10


# Pictures


@every_conflict_rule
def test_high_maps_are_foreground_and_low_saliency_is_background(conflict):
    saliency = ["0000", "0999", "0999"]
    cam = ["0000", "0193", "0113"]
    assert seed_picture(saliency, cam, conflict=conflict) == ["0000", "0.AA", "0..A"]


@every_conflict_rule
def test_each_map_has_its_own_threshold_at_a_share_of_its_maximum(conflict):
    """A rises to .9 and fires above .18; B rises to .4 only and fires above .08."""
    assert seed_picture(["99999999"], ["91200000"], ["00001240"], conflict=conflict) == ["A.A.BBB."]


def test_or_every_pixel_with_two_claims_stays_unlabeled():
    saliency, cam_a, cam_b = ["0099990"], ["0999000"], ["0009909"]
    assert seed_picture(saliency, cam_a, cam_b, conflict="smaller") == ["0AABB.B"]
    assert seed_picture(saliency, cam_a, cam_b, conflict="unlabeled") == ["0.A.B.."]


@every_conflict_rule
def test_a_map_of_zeros_fires_nowhere(conflict):
    assert seed_picture(["0990"], ["0000"], ["0090"], conflict=conflict) == ["0.B0"]


def test_an_unknown_conflict_rule_is_refused():
    with pytest.raises(ValueError, match="conflict: expected smaller or unlabeled, not 'largest'"):
        seed_picture(["0"], ["0"], conflict="largest")


# Literal loops


def literal_seeds(cams, saliency, present, *, fg_thresh, bg_thresh, conflict):
    """One image: background first, then the classes painted over it, the largest first."""
    _, height, width = cams.shape
    claims = np.zeros((len(cams) + 1, height, width), bool)
    for y in range(height):
        for x in range(width):
            claims[0, y, x] = saliency[y, x] < bg_thresh
            for c in range(1, len(cams) + 1):
                claims[c, y, x] = present[c] and cams[c - 1, y, x] > fg_thresh * cams[c - 1].max()
    seeds = np.full((height, width), UNLABELED)
    for c in [0, *sorted(range(1, len(claims)), key=lambda c: (-claims[c].sum(), c))]:
        seeds[claims[c]] = c
    if conflict == "unlabeled":
        seeds[claims.sum(0) > 1] = UNLABELED
    return seeds


@every_conflict_rule
def test_seeds_equal_the_literal_loops_on_random_batches(conflict):
    rng = np.random.default_rng(0)
    ties = 0
    for _ in range(60):
        batch, classes, height, width = rng.integers(1, 5, 4)
        cams = rng.integers(0, 9, (batch, classes, height, width)) / 8.0
        saliency = rng.integers(0, 9, (batch, height, width)) / 8.0
        present = np.insert(rng.random((batch, classes)) < 0.7, 0, True, axis=1)
        rules = {"fg_thresh": rng.choice([0.25, 0.5]), "bg_thresh": rng.choice([0.25, 0.5]), "conflict": conflict}
        seeds = make_seeds(*map(torch.from_numpy, (cams, saliency, present)), **rules)
        assert seeds.dtype == torch.uint8 and seeds.shape == (batch, height, width)
        for i in range(batch):
            np.testing.assert_array_equal(seeds[i].numpy(), literal_seeds(cams[i], saliency[i], present[i], **rules))
        areas = (cams > rules["fg_thresh"] * cams.max((2, 3), keepdims=True)).sum((2, 3))
        ties += sum(len(set(row)) < len(row) for row in areas.tolist())
    assert ties > 20


# Normalizing


def test_maps_are_scaled_to_a_maximum_of_1_and_negative_evidence_is_none():
    cams = torch.tensor([[[[-2.0, 1.0], [4.0, 0.0]], [[0.1, 0.2], [0.0, -9.0]]]])
    assert normalize_cams(cams).tolist() == [[[[0, 0.25], [1, 0]], [[0.5, 1], [0, 0]]]]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_positive_evidence_becomes_zeros(value):
    assert not normalize_cams(torch.full((2, 3, 4), value)).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_even_the_faintest_map_rises_to_1(dtype):
    faintest = torch.finfo(dtype).smallest_normal / 4
    cams = torch.tensor([[[0, faintest], [faintest / 2, 0]]], dtype=dtype)
    assert normalize_cams(cams).tolist() == [[[0, 1], [0.5, 0]]]
    assert normalize_cams(cams).dtype == dtype


def test_normalizing_does_not_move_seeds():
    cams = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0)) ** 3
    others = {"saliency": cams[:, 0], "present": torch.ones(2, 4, dtype=torch.bool), "conflict": "smaller"}
    seeds = make_seeds(cams, **others, **RULES)
    assert torch.equal(make_seeds(normalize_cams(cams), **others, **RULES), seeds)
    assert len(seeds.unique()) == 5


# DCSP's harmonic rule


@pytest.mark.parametrize("thresh", [0.1, 0.4, 1.0])
def test_harmonic_seeds_equal_the_literal_loops(thresh):
    generator = torch.Generator().manual_seed(0)
    cams, saliency = torch.rand(4, 3, 5, 6, generator=generator), torch.rand(4, 5, 6, generator=generator)
    cams, saliency = normalize_cams(cams).where(cams > 0.3, 0), saliency.where(saliency > 0.2, 0)
    present = torch.tensor([[True, *tags] for tags in ([1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 0])]).bool()
    found = harmonic_seeds(cams, saliency, present, thresh=thresh)
    highest = cams.amax(dim=(2, 3))
    for image, y, x in np.ndindex(4, 5, 6):
        means = {0: 0.0}
        for number in range(1, 4):
            a, s = float(cams[image, number - 1, y, x] / highest[image, number - 1]), float(saliency[image, y, x])
            if present[image, number] and min(a, s) > 0:
                mean = 2 / (1 / a + 1 / s)
                assert min(a, s) - 1e-6 <= mean <= (a * s) ** 0.5 + 1e-6
                means[number] = mean
        best = max(sorted(means), key=lambda number: means[number])  # the lower of equal ones
        assert int(found[image, y, x]) == (best if means[best] >= thresh else 0)


def test_one_rule_for_what_the_crf_makes_of_seeds():
    seeds, labels = torch.tensor([[0, 1, 255, 2]]).to(torch.uint8), torch.tensor([[0, 2, 1, 2]]).to(torch.uint8)
    expected = {"none": [[0, 1, 255, 2]], "agree": [[0, 255, 255, 2]], "replace": [[0, 2, 1, 2]]}
    assert {use: with_crf_labels(seeds, labels, use=use).tolist() for use in expected} == expected
    with pytest.raises(ValueError, match="use: expected none, agree or replace, not 'both'"):
        with_crf_labels(seeds, labels, use="both")
