"""dsrg.method.saliency: laws, drawn pictures, and slow literal versions of the two path computations."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsrg.method.saliency import combined
from dsrg.method.saliency.mbd import BORDERS, barrier_distances, mbd
from dsrg.method.saliency.rbd import _contrast, _optimize, _smoothness, geodesic_distances, rbd, slic

MBD = {"side": 60, "passes": 1, "borders": ["top", "left", "right"]}
RBD = {"superpixels": 200, "sigma_color": 10.0, "optimize": False}
METHODS = {
    "mbd": lambda image: mbd(image, **MBD),
    "rbd": lambda image: rbd(image, **RBD),
    "rbd_optimized": lambda image: rbd(image, **RBD | {"optimize": True}),
    "combined": lambda image: combined(image, **MBD, **RBD),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def disc(noise: float = 0.0, center: tuple[int, int] = (60, 90), height: int = 120, width: int = 160):
    """A red disc of radius 25 on gray with Gaussian noise: the image and the disc's mask."""
    y, x = np.ogrid[:height, :width]
    inside = (y - center[0]) ** 2 + (x - center[1]) ** 2 < 25**2
    image = np.where(inside[..., None], [200, 60, 50], [120, 125, 130])
    image = image + np.random.default_rng(0).normal(0, noise, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), inside


def ranking(values: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve; ties count half."""
    inside, outside = np.sort(values[positive]), np.sort(values[~positive])
    below = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
    return below.mean() / 2 / len(outside)


# Laws


@every_method
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (50, 1), (2, 2), (3, 2000), (37, 61)], ids=str)
def test_any_shape_gives_a_map_of_its_size_within_0_and_1(method, shape):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    result = method(image)
    assert result.shape == shape and result.dtype == np.float32
    assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1


@every_method
@pytest.mark.parametrize("color", [(255, 255, 255), (17, 130, 201)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (90, 70)], ids=str)
def test_flat_image_has_no_saliency(method, shape, color):
    assert not method(np.full((*shape, 3), color, np.uint8)).any()


@every_method
def test_same_image_same_bits_and_image_untouched(method):
    image, _ = disc(noise=20)
    before = image.copy()
    assert np.array_equal(method(image), method(image))
    assert np.array_equal(image, before)


# Ties fall the other way in a mirrored image, so the maps agree closely but not exactly.
@every_method
@pytest.mark.parametrize("noise", [0, 20])
def test_mirrored_image_gives_nearly_the_mirrored_map(method, noise):
    image, _ = disc(noise)
    assert np.abs(method(image[:, ::-1]) - method(image)[:, ::-1]).mean() < 0.002


def test_mbd_ignores_brightness():
    image, _ = disc(noise=5, height=60, width=60, center=(30, 30))
    assert np.array_equal(mbd(image + np.uint8(17), **MBD), mbd(image, **MBD))


def test_mbd_ignores_which_channel_is_which():
    image, _ = disc(noise=5)
    np.testing.assert_allclose(mbd(image[..., ::-1], **MBD), mbd(image, **MBD), atol=1e-6)


def test_combined_is_the_mean():
    image, _ = disc(noise=5)
    np.testing.assert_allclose(combined(image, **MBD, **RBD), (mbd(image, **MBD) + rbd(image, **RBD)) / 2)


# Pictures


@every_method
@pytest.mark.parametrize("noise", [0, 25])
def test_disc_stands_out(method, noise):
    image, inside = disc(noise)
    result = method(image)
    assert result[inside].mean() > result[~inside].mean() + 0.4
    assert ranking(result, inside) > 0.97


@pytest.mark.parametrize("name", ["mbd", "rbd"])
def test_disc_cut_by_the_left_edge_is_seen_less_well(name):
    whole, inside = disc(noise=5)
    cut, inside_cut = disc(noise=5, center=(60, 0))
    worse, better = METHODS[name](cut)[inside_cut].mean(), METHODS[name](whole)[inside].mean()
    assert np.isfinite(worse) and worse < better - 0.1


def test_mbd_sees_a_disc_cut_by_an_edge_that_is_not_held_for_background():
    image, inside = disc(noise=5, center=(110, 80))
    three, four = (mbd(image, **MBD | {"borders": b}) for b in (MBD["borders"], list(BORDERS)))
    assert three[inside].mean() > three[~inside].mean() + 0.4
    assert four[inside].mean() < 0.3


def test_mbd_of_a_slope_is_below_that_of_a_step_of_the_same_height():
    ramp = np.linspace(50, 150, 60)[:, None].repeat(60, 1)
    ramp[25:35, 25:35] += 100
    result = mbd(np.repeat(ramp[..., None], 3, 2).astype(np.uint8), **MBD | {"borders": ["top"]})
    assert result[25:35, 25:35].min() > result[:20].max() + 0.3


def test_rbd_knows_a_gap_in_the_object_for_background():
    image = np.full((120, 160, 3), 120, np.uint8)
    image[40:, 30:130] = [200, 60, 50]
    image[60:, 74:86] = 120  # touches the border just here, and no other background at all
    result = rbd(image, **RBD)
    assert result[70:, 78:82].mean() < 0.05
    assert result[60:100, 40:64].mean() > 0.2


# Slow literal versions


def literal_sweeps(plane: np.ndarray, seeds: np.ndarray, passes: int) -> np.ndarray:
    """The minimum barrier sweeps on one plane, a pixel at a time: down, up, right, left."""
    height, width = plane.shape
    high, low = plane.copy(), plane.copy()
    distance = np.where(seeds, 0.0, np.inf)
    forth = list(itertools.product(range(height), range(width)))
    across = [(y, x) for x in range(width) for y in range(height)]
    for _ in range(passes):
        for order, dy, dx in ((forth, -1, 0), (forth[::-1], 1, 0), (across, 0, -1), (across[::-1], 0, 1)):
            for y, x in order:
                v, u = y + dy, x + dx
                if not (0 <= v < height and 0 <= u < width) or distance[v, u] == np.inf:
                    continue
                top, bottom = max(high[v, u], plane[y, x]), min(low[v, u], plane[y, x])
                if top - bottom < distance[y, x]:
                    distance[y, x], high[y, x], low[y, x] = top - bottom, top, bottom
    return distance


def exact_barrier(plane: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The true minimum barrier distance: the narrowest band of values whose pixels join a pixel to a seed."""
    height, width = plane.shape
    best = np.full(plane.shape, np.inf)
    for low, high in itertools.combinations_with_replacement(np.unique(plane), 2):
        inside = (plane >= low) & (plane <= high)
        todo = list(zip(*np.nonzero(inside & seeds), strict=True))
        joined = set(todo)
        while todo:
            y, x = todo.pop()
            for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= v < height and 0 <= u < width and inside[v, u] and (v, u) not in joined:
                    joined.add((v, u))
                    todo.append((v, u))
        for at in joined:
            best[at] = min(best[at], high - low)
    return best


planes_and_seeds = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(
    lambda shape: st.tuples(arrays(np.uint8, shape, elements=st.integers(0, 9)), arrays(bool, shape))
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(planes_and_seeds, st.integers(1, 3))
def test_sweeps_equal_the_literal_ones(given_arrays, passes):
    plane, seeds = given_arrays
    fast = barrier_distances(np.float32([plane, 9 - plane]), seeds, passes=passes)
    assert np.array_equal(fast[0], literal_sweeps(plane.astype(float), seeds, passes))
    assert np.array_equal(fast[1], fast[0])  # the barrier of the negative is the same


@settings(max_examples=40, deadline=None, derandomize=True)
@given(planes_and_seeds)
def test_sweeps_come_down_towards_the_exact_distance(given_arrays):
    plane, seeds = given_arrays
    exact = exact_barrier(plane.astype(float), seeds)
    once, often = (barrier_distances(np.float32([plane]), seeds, passes=n)[0] for n in (1, 10))
    assert (often <= once).all() and (often >= exact).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_geodesic_distances_equal_bellman_ford(count, seed):
    rng = np.random.default_rng(seed)
    lengths = np.where(rng.random((count, count)) < 0.4, rng.integers(0, 20, (count, count)), np.inf)
    expected = np.full((count, count), np.inf)
    np.fill_diagonal(expected, 0)
    for _ in range(count):
        for start, middle, end in itertools.product(range(count), repeat=3):
            expected[start, end] = min(expected[start, end], expected[start, middle] + lengths[middle, end])
    assert np.array_equal(geodesic_distances(lengths), expected)


# Superpixels


def test_superpixels_follow_the_edge_between_two_colors():
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, 77:] = [250, 240, 30]
    labels, color, center = slic(image, superpixels=100)
    right = np.zeros(labels.shape, bool)
    right[:, round(77 / 160 * labels.shape[1]) :] = True
    shares = np.bincount(labels.ravel(), right.ravel()) / np.bincount(labels.ravel())
    assert ((shares < 0.1) | (shares > 0.9)).all()
    assert 50 <= len(color) <= 150 and len(center) == len(color) == labels.max() + 1
    assert center.min() >= 0 and (center.max(axis=0) <= [0.75, 1]).all()


def test_smoothness_ties_neighbors_and_their_neighbors():
    chain = np.eye(4, k=1, dtype=bool) | np.eye(4, k=-1, dtype=bool)
    weights = _smoothness(chain, np.zeros((4, 4)), 10.0)
    assert np.array_equal(weights > 0, [[0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0]])
    np.testing.assert_allclose(weights[weights > 0], 1.1)


def test_contrast_is_with_the_background_nearby():
    rng = np.random.default_rng(4)
    difference, center, background = rng.random((5, 5)), rng.random((5, 2)), rng.random(5)
    expected = np.zeros(5)
    for i, j in itertools.product(range(5), repeat=2):
        apart = np.hypot(*(center[i] - center[j]))
        expected[i] += difference[i, j] * np.exp(-(apart**2) / (2 * 0.25**2)) * background[j]
    contrast = _contrast(difference, center, background=background)
    np.testing.assert_allclose(contrast, (expected - expected.min()) / np.ptp(expected))


def test_optimized_map_solves_the_papers_least_squares():
    rng = np.random.default_rng(3)
    weights = rng.random((5, 5))
    weights = np.triu(weights, 1) + np.triu(weights, 1).T
    foreground, background = rng.random(5), rng.random(5) + 0.1

    def cost(s):
        ties = (weights * (s[:, None] - s) ** 2).sum() / 2
        return (background * s**2).sum() + (foreground * (s - 1) ** 2).sum() + ties

    system = np.diag(background + foreground + weights.sum(axis=1)) - weights
    best = np.linalg.solve(system, foreground)
    assert all(cost(best) < cost(best + 0.01 * rng.normal(size=5)) for _ in range(50))
    stretched = _optimize(foreground, weights, background=background)
    np.testing.assert_allclose(stretched, (best - best.min()) / np.ptp(best))
