"""dsrg.method.growing: drawn pictures, laws, and the released algorithm written down pixel by pixel."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from dsrg.method.grid import UNLABELED
from dsrg.method.growing import grow

PAPER = {"fg_thresh": 0.85, "bg_thresh": 0.99}


# Pictures: 0 is background, A B C are classes, a dot is an unlabeled pixel or one the network is unsure of.

LETTERS = "0ABC"


def label_map(rows: list[str]) -> Tensor:
    return torch.tensor([[[LETTERS.find(c) if c != "." else 255 for c in row] for row in rows]], dtype=torch.uint8)


def opinion(rows: list[str]) -> Tensor:
    """Probability .997 for the letter and .001 for each other class; .25 for all of them at a dot."""
    winner = label_map(rows).long()
    sure = torch.full((4, 4), 0.001).fill_diagonal_(0.997)
    return torch.cat([sure, torch.full((1, 4), 0.25)])[winner.clamp(max=4)].movedim(3, 1)


def drawn(labels: Tensor) -> list[str]:
    return ["".join("." if label == UNLABELED else LETTERS[label] for label in row) for row in labels[0].tolist()]


def grown_picture(seeds: list[str], network: list[str], tags: str = "ABC") -> list[str]:
    present = torch.tensor([[letter in "0" + tags for letter in LETTERS]])
    return drawn(grow(label_map(seeds), opinion(network), present, **PAPER))


def test_a_seed_grows_into_the_region_of_its_class_and_into_no_other():
    seeds = [
        "A......",
        ".......",
        "......0",
    ]
    network = [
        "AAA..A0",
        "..AB.A0",
        ".A..BB0",
    ]
    assert grown_picture(seeds, network) == [
        "AAA...0",
        "..A...0",
        ".A....0",
    ]


def test_diagonal_neighbors_are_connected():
    assert grown_picture(["A...", "....", "...."], ["A..A", ".AA.", "A..."]) == ["A..A", ".AA.", "A..."]


def test_a_seed_the_network_is_unsure_of_still_grows():
    assert grown_picture([".A.."], ["..AA"]) == [".AAA"]


def test_a_seed_of_another_class_bridges_a_region():
    """The network says A under the seed B: the seed stays B, and A grows on behind it."""
    assert grown_picture(["A..B.."], ["AAAAAA"]) == ["AAABAA"]


def test_a_seed_of_another_class_that_the_network_is_unsure_of_stops_a_region():
    assert grown_picture(["A..B.."], ["AAA.AA"]) == ["AAAB.."]


def test_a_seed_the_network_contradicts_cuts_its_own_region():
    """The network says B under the second seed A: A does not grow through it, nor from it."""
    assert grown_picture(["A.A.."], ["AABAA"]) == ["AAA.."]
    assert grown_picture([".A."], ["ABA"]) == [".A."]


def test_a_class_that_is_not_tagged_does_not_count():
    """The network is sure of C, but the image is not tagged C: the pixel stops A, and does not contradict a seed A."""
    assert grown_picture(["A.."], ["ACA"], tags="AB") == ["A.."]
    assert grown_picture([".A."], ["ACA"], tags="AB") == ["AAA"]


def test_growth_follows_a_long_spiral_and_a_long_zigzag():
    for path in (spiral(41), zigzag(41)):
        probs = np.stack([1 - path, path])[None]
        seeds = np.full((1, 41, 41), UNLABELED, np.uint8)
        seeds[0, 0, 0] = 1
        grown = grow(torch.from_numpy(seeds), torch.from_numpy(probs), torch.tensor([[True, True]]), **PAPER)
        assert torch.equal(grown[0] == 1, torch.from_numpy(path == 1)) and not (grown == 0).any()


def spiral(side: int) -> np.ndarray:
    """1 on a path one pixel wide from the corner to the middle, its turns one pixel apart."""
    path = np.zeros((side, side))
    y, x, dy, dx = 0, 0, 0, 1
    path[y, x] = 1
    for length in [side - 1] + [n for side_left in range(side - 1, 1, -2) for n in (side_left, side_left)]:
        for _ in range(length):
            y, x = y + dy, x + dx
            path[y, x] = 1
        dy, dx = dx, -dy
    return path


def zigzag(side: int) -> np.ndarray:
    """1 on teeth of diagonal steps: a path without two pixels in a row or a column beside each other."""
    path = np.zeros((side, side))
    for x in range(side):
        path[x % 10 if x % 10 <= 5 else 10 - x % 10, x] = 1
    return path


# Thresholds


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("label, threshold", [(1, 0.85), (0, 0.99)])
def test_thresholds_are_strict(dtype, label, threshold):
    at = torch.tensor(threshold, dtype=dtype)
    for value, expected in ((at, UNLABELED), (torch.nextafter(at, torch.ones_like(at)), label)):
        probs = torch.zeros(1, 2, 1, 2, dtype=dtype)
        probs[:, label] = value
        seeds = torch.tensor([[[label, UNLABELED]]], dtype=torch.uint8)
        assert grow(seeds, probs, torch.tensor([[True, True]]), **PAPER)[0, 0, 1] == expected


@pytest.mark.parametrize("fg_thresh, bg_thresh, grows", [(0.85, 0.95, False), (0.95, 0.85, False), (0.85, 0.85, True)])
def test_background_must_pass_both_thresholds(fg_thresh, bg_thresh, grows):
    probs = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    seeds = torch.tensor([[[0, UNLABELED]]], dtype=torch.uint8)
    grown = grow(seeds, probs, torch.tensor([[True, True]]), fg_thresh=fg_thresh, bg_thresh=bg_thresh)
    assert (grown[0, 0, 1] == 0) == grows


# The released algorithm, literally


def literal_growth(seeds, probs, present, *, fg_thresh, bg_thresh):
    """The released algorithm on one image in nested lists, one pixel at a time."""
    pixels = [(y, x) for y in range(len(seeds)) for x in range(len(seeds[0]))]
    classes = [c for c, tagged in enumerate(present) if tagged]
    cues = {(y, x): {seeds[y][x]} - {UNLABELED} for y, x in pixels}
    labels = {}
    for y, x in pixels:
        best = classes[0]
        for c in classes:
            if probs[c][y][x] > probs[best][y][x]:
                best = c
        value = probs[best][y][x]
        sure = value > fg_thresh and (best != 0 or value > bg_thresh)
        labels[y, x] = best if sure else max(cues[y, x], default=None)
    grown = {pixel: set(cues[pixel]) for pixel in pixels}
    for c in classes:
        for region in connected({pixel for pixel in pixels if labels[pixel] == c}):
            if any(c in cues[pixel] for pixel in region):
                for pixel in region:
                    if not (len(cues[pixel]) == 1 and c not in cues[pixel]):
                        grown[pixel].add(c)
    assert all(len(found) <= 1 for found in grown.values())
    return [[max(grown[y, x], default=UNLABELED) for x in range(len(seeds[0]))] for y in range(len(seeds))]


def connected(pixels: set) -> list[set]:
    """The 8-connected regions of a set of pixels."""
    regions = []
    while pixels:
        region, waiting = set(), [pixels.pop()]
        while waiting:
            y, x = waiting.pop()
            region.add((y, x))
            for neighbor in neighbors(y, x):
                if neighbor in pixels:
                    pixels.remove(neighbor)
                    waiting.append(neighbor)
        regions.append(region)
    return regions


def neighbors(y: int, x: int) -> list[tuple[int, int]]:
    return [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


class Case(NamedTuple):
    """Arguments of `grow` for one image, without the batch dimension.

    Probabilities and thresholds are multiples of 1/64: exact in every float type, and often equal to each other.
    """

    seeds: np.ndarray
    probs: np.ndarray
    present: np.ndarray
    fg_thresh: float
    bg_thresh: float

    @property
    def thresholds(self) -> dict[str, float]:
        return {"fg_thresh": self.fg_thresh, "bg_thresh": self.bg_thresh}

    def lists(self):
        return self.seeds.tolist(), self.probs.tolist(), self.present.tolist()

    def grown(self, dtype: torch.dtype = torch.float64) -> np.ndarray:
        probs = torch.from_numpy(self.probs).to(dtype)
        seeds, present = torch.from_numpy(self.seeds), torch.from_numpy(self.present)
        return grow(seeds[None], probs[None], present[None], **self.thresholds)[0].numpy()

    def winner(self) -> tuple[np.ndarray, np.ndarray]:
        """Most probable tagged class, and whether the network is sure of it."""
        tagged = np.where(self.present[:, None, None], self.probs, -1)
        winner, highest = tagged.argmax(0), tagged.max(0)
        return winner, (highest > self.fg_thresh) & ((winner != 0) | (highest > self.bg_thresh))

    def uncontradicted(self) -> "Case":
        """The same without the seeds of which the network is sure that they are something else."""
        winner, sure = self.winner()
        return self._replace(seeds=np.where(sure & (winner != self.seeds), UNLABELED, self.seeds).astype(np.uint8))


def random_case(rng: np.random.Generator) -> Case:
    longest, classes = 10, int(rng.integers(1, 5))
    height, width = rng.integers(1, longest + 1, 2)
    shape = [(height, width), (height, width), (height, width), (1, width), (height, 1), (1, 1)][rng.integers(6)]
    noise = rng.integers(0, 65, (classes + 1, *shape))
    blobs = np.kron(rng.integers(0, 65, (classes + 1, 4, 4)), np.ones((3, 3), int))[:, : shape[0], : shape[1]]
    two_valued = rng.choice([31, 64], (classes + 1, *shape))
    path = 64 * np.stack([spiral(13)[: shape[0], : shape[1]]] * (classes + 1))
    probs = [noise, blobs, np.where(rng.random(shape) < 0.1, noise, blobs), two_valued, path][rng.integers(5)]
    present = np.append(True, rng.random(classes) < 0.8)
    seedable = np.flatnonzero(present) if rng.random() < 0.9 else np.arange(classes + 1)
    seeds = rng.choice(seedable, shape)
    seeds[rng.random(shape) < rng.choice([0.5, 0.8, 0.95, 1])] = UNLABELED
    fg_thresh, bg_thresh = rng.choice([0, 16, 32, 48, 63], 2)
    return Case(seeds.astype(np.uint8), probs / 64, present, fg_thresh / 64, bg_thresh / 64)


def test_growth_equals_the_released_algorithm_on_random_cases():
    rng = np.random.default_rng(0)
    for _ in range(800):
        case = random_case(rng)
        expected = np.array(literal_growth(*case.lists(), **case.thresholds))
        np.testing.assert_array_equal(case.grown(), expected)


# Laws


@st.composite
def cases(draw) -> Case:
    height, width, classes = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    label = st.sampled_from([*range(classes + 1), UNLABELED])
    return Case(
        seeds=draw(arrays(np.uint8, (height, width), elements=label)),
        probs=draw(arrays(np.uint8, (classes + 1, height, width), elements=st.integers(0, 64))) / 64,
        present=np.append(True, draw(arrays(bool, classes))),
        fg_thresh=draw(st.integers(0, 63)) / 64,
        bg_thresh=draw(st.integers(0, 63)) / 64,
    )


law = settings(max_examples=80, deadline=None)


@law
@given(cases())
def test_a_seed_is_never_lost_or_relabeled(case):
    grown = case.grown()
    assert grown.dtype == np.uint8 and grown.shape == case.seeds.shape
    seeded = case.seeds != UNLABELED
    assert np.array_equal(grown[seeded], case.seeds[seeded])


@law
@given(cases())
def test_only_sure_pixels_are_added_with_a_tagged_class_that_has_seeds(case):
    grown = case.grown()
    winner, sure = case.winner()
    added = (grown != UNLABELED) & (case.seeds == UNLABELED)
    assert sure[added].all() and np.array_equal(grown[added], winner[added])
    assert set(grown[added]) <= set(np.flatnonzero(case.present)) & set(case.seeds.flat)


@law
@given(cases())
def test_growing_again_changes_nothing(case):
    grown = case.grown()
    assert np.array_equal(case._replace(seeds=grown).grown(), grown)


@law
@given(cases().map(Case.uncontradicted))
def test_without_contradicted_seeds_it_is_the_papers_visiting_pixel_by_pixel(case):
    winner, sure = case.winner()
    labels = dict(np.ndenumerate(case.seeds))
    changed = True
    while changed:
        changed = False
        for pixel in labels:
            around = {labels.get(neighbor) for neighbor in neighbors(*pixel)}
            if labels[pixel] == UNLABELED and sure[pixel] and winner[pixel] in around:
                labels[pixel] = winner[pixel]
                changed = True
    assert dict(np.ndenumerate(case.grown())) == labels


@law
@given(cases(), st.integers(0, 63), st.integers(0, 63))
def test_without_contradicted_seeds_lower_thresholds_only_add(case, fg_thresh, bg_thresh):
    low = case._replace(fg_thresh=min(case.fg_thresh, fg_thresh / 64), bg_thresh=min(case.bg_thresh, bg_thresh / 64))
    low = low.uncontradicted()
    high = case._replace(seeds=low.seeds).grown()
    labeled = high != UNLABELED
    assert np.array_equal(low.grown()[labeled], high[labeled])


def test_with_a_contradicted_seed_a_lower_threshold_can_take_away():
    """Unsure, the network lets A grow through the seed in the middle; sure of B there, it cuts."""
    probs = torch.tensor([[[0.0] * 5, [0.97, 0.97, 0.1, 0.97, 0.97], [0.0, 0.0, 0.9, 0.0, 0.0]]])[:, :, None]
    seeds = torch.tensor([[[1, 255, 1, 255, 255]]], dtype=torch.uint8)
    present = torch.tensor([[True, True, True]])
    assert grow(seeds, probs, present, fg_thresh=0.95, bg_thresh=0.99).tolist() == [[[1, 1, 1, 1, 1]]]
    assert grow(seeds, probs, present, fg_thresh=0.85, bg_thresh=0.99).tolist() == [[[1, 1, 1, 255, 255]]]


@law
@given(cases())
def test_flips_turns_and_transposes_commute_with_growing(case):
    grown = case.grown()
    for move in (
        lambda image: np.flip(image, -1),
        lambda image: np.flip(image, -2),
        lambda image: np.rot90(image, axes=(-2, -1)),
        lambda image: np.swapaxes(image, -2, -1),
    ):
        moved = case._replace(seeds=move(case.seeds).copy(), probs=move(case.probs).copy())
        assert np.array_equal(moved.grown(), move(grown))


@law
@given(cases(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_every_float_type_gives_the_same_labels(case, dtype):
    assert np.array_equal(case.grown(dtype), case.grown())


# Batches


def random_batch(size: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(1)
    coarse = torch.from_numpy(rng.random((size, 4, 5, 5)))
    probs = torch.nn.functional.interpolate(coarse * 6, size=(21, 17), mode="bilinear").softmax(1)
    seeds = torch.from_numpy(rng.choice([0, 1, 2, 3, UNLABELED], (size, 21, 17), p=[0.02] * 4 + [0.92]))
    present = torch.from_numpy(np.insert(rng.random((size, 3)) < 0.7, 0, True, axis=1))
    return seeds.to(torch.uint8), probs, present


LOOSE = {"fg_thresh": 0.4, "bg_thresh": 0.5}


def test_a_batch_gives_what_its_images_give_alone():
    seeds, probs, present = random_batch(6)
    grown = grow(seeds, probs, present, **LOOSE)
    assert (grown != seeds).flatten(1).any(1).all()
    for i in range(6):
        assert torch.equal(grown[i : i + 1], grow(seeds[i : i + 1], probs[i : i + 1], present[i : i + 1], **LOOSE))


def test_arguments_stay_as_they_were_and_need_not_be_contiguous():
    seeds, probs, present = random_batch(3)
    before = seeds.clone(), probs.clone(), present.clone()
    grown = grow(seeds, probs, present, **LOOSE)
    assert all(map(torch.equal, (seeds, probs, present), before))
    channels_last = probs.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(grow(seeds, channels_last, present, **LOOSE), grown)


def test_an_empty_batch_stays_empty():
    grown = grow(*(argument[:0] for argument in random_batch(1)), **PAPER)
    assert grown.shape == (0, 21, 17) and grown.dtype == torch.uint8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_labels():
    batch = random_batch(6)
    grown = grow(*(argument.cuda() for argument in batch), **LOOSE)
    assert grown.is_cuda and torch.equal(grown.cpu(), grow(*batch, **LOOSE))
