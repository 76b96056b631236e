"""dsrg.method.crf_lattice: the filter written out vertex by vertex, laws, pydensecrf's numbers on textured images."""

from collections import Counter
from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dsrg.method import crf_lattice
from dsrg.method.crf_lattice import Lattice, elevate, enclosing_simplex, lattice_mean_field
from dsrg.method.crf_pydensecrf import Kernel, mean_field
from helpers import REAL_VOC
from helpers.crf import PAPER, PAPER_IN_TRAINING, kernel, needs_pydensecrf

KERNELS = {
    "training": PAPER_IN_TRAINING,
    "seeds": kernel(3.0, 0.5, 10.0, 6.67, 13.0),
    "test": PAPER,
    "deeplab": kernel(3.0, 1.0, 4.0, 67.0, 3.0),
    "irn": kernel(3.0, 3.0, 10.0, 50.0, 5.0),
}


def training_kernel(iterations: int) -> Kernel:
    return Kernel(**KERNELS["training"], iterations=iterations)


def points(seed: int, *shape: int, spread: float = 3.0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def lattice_around(features: Tensor, *, symmetric: bool = True) -> Lattice:
    """The lattice around features (N, B, d), 0 or more."""
    return Lattice(features, largest=features.amax((0, 1)).tolist(), symmetric=symmetric)


# The filter, vertex by vertex

Vertex = tuple[int, ...]  # all d+1 coordinates


def simplex_around(point: NDArray[np.float64]) -> dict[Vertex, float]:
    """Vertices of the simplex of A*_d around a point of d+1 coordinates of sum 0, with barycentric coordinates."""
    corners = len(point)
    origin = [corners * round(x / corners) for x in point]
    by_height = sorted(range(corners), key=lambda i: origin[i] - point[i])  # stable: of equals the last is the lowest
    excess = sum(origin) // corners
    for i in by_height[len(by_height) - excess :] if excess > 0 else []:
        origin[i] -= corners
    for i in by_height[:-excess] if excess < 0 else []:
        origin[i] += corners
    by_height = by_height[corners - excess :] + by_height[: corners - excess] if excess > 0 else by_height
    by_height = by_height[-excess:] + by_height[:-excess] if excess < 0 else by_height
    height = [(point[i] - origin[i]) / corners for i in by_height]
    weights = {tuple(origin): 1 + height[-1] - height[0]}
    vertex = origin
    for place in reversed(range(1, corners)):
        vertex = [x + 1 for x in vertex]
        vertex[by_height[place]] -= corners
        weights[tuple(vertex)] = height[place - 1] - height[place]
    return weights


def filtered(features: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """One image, features (N, d), values (N, C): splat, blur and slice with a dictionary of vertices."""
    count, dimension = features.shape
    corners = dimension + 1
    filled = np.vstack([features, np.zeros((-count % 4, dimension))])
    around = [simplex_around(point) for point in elevate(torch.from_numpy(filled)).numpy()]
    table = {vertex: np.zeros(values.shape[1]) for weights in around for vertex in weights}
    for weights, value in zip(around, values, strict=False):
        for vertex, weight in weights.items():
            table[vertex] = table[vertex] + weight * value
    for direction in range(corners):
        step = np.full(corners, -1)
        step[direction] += corners
        table = {
            vertex: value + sum(table.get(tuple(np.add(vertex, way).tolist()), 0) for way in (step, -step)) / 2
            for vertex, value in table.items()
        }
    sliced = [sum(weight * table[vertex] for vertex, weight in weights.items()) for weights in around[:count]]
    return np.array(sliced) / (1 + 2.0**-dimension)


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 4, 22, 40])
def test_filter_is_the_one_written_out(dimension, count):
    features, values = points(0, count, 3, dimension, spread=6), points(1, count, 3, 4)
    result = lattice_around(features, symmetric=False).filter(values.flatten(0, 1)).view(count, 3, 4)
    for image in range(3):
        expected = filtered(features[:, image].double().numpy(), values[:, image].double().numpy())
        np.testing.assert_allclose(result[:, image].numpy(), expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([0.1, 3.0, 100.0]))
def test_a_point_is_the_barycenter_of_its_simplex(dimension, seed, spread):
    elevated = elevate(points(seed, 30, dimension, spread=spread) - spread / 2)
    origin, weights, order = enclosing_simplex(elevated)
    assert (origin.sum(1) == 0).all() and (weights > -1e-4).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(30))
    vertex, center = origin * (dimension + 1), torch.zeros_like(elevated)
    for k in range(dimension + 1):
        assert (vertex.sum(1) == 0).all() and (vertex % (dimension + 1) == k).all()
        center += weights[:, k : k + 1] * vertex
        lowest = order[:, dimension - k : dimension - k + 1]
        vertex = vertex + 1 - torch.zeros_like(vertex).scatter_(1, lowest, dimension + 1)
    torch.testing.assert_close(center, elevated, atol=2e-5 * max(1, spread), rtol=1e-5)


def test_elevation_keeps_distances_up_to_scale():
    features = points(0, 20, 5)
    elevated = elevate(features)
    torch.testing.assert_close(elevated.sum(1), torch.zeros(20), atol=1e-4, rtol=0)
    scale = (2 / 3) ** 0.5 * 6
    torch.testing.assert_close(torch.cdist(elevated, elevated), scale * torch.cdist(features, features))


# Laws of the filter


@pytest.mark.parametrize("dimension, side", [(1, 101), (2, 41)])
def test_filter_is_a_gaussian_of_deviation_one(dimension, side):
    """Its response to one point, averaged over 60 places of a grid on the lattice."""
    grid = torch.cartesian_prod(*[torch.linspace(-5, 5, side)] * dimension).view(-1, 1, dimension)
    middle = (grid.abs().sum(2) < 1e-6).float().expand(-1, 60).reshape(-1, 1)
    moved = grid + points(0, 1, 60, dimension, spread=20) + 5
    response = lattice_around(moved, symmetric=False).filter(middle).view(-1, 60).mean(1)
    response = response / response.sum()
    covariance = torch.einsum("n,ni,nj->ij", response, grid[:, 0], grid[:, 0])
    torch.testing.assert_close(covariance, torch.eye(dimension), atol=0.015, rtol=0)
    gaussian = torch.exp(-(grid[:, 0] ** 2).sum(1) / 2)
    assert abs(response - gaussian / gaussian.sum()).max() < 0.12 * response.max()


def test_symmetric_normalization():
    """D^-1/2 K D^-1/2 with the row sums D of the plain filter K."""
    features, values = points(0, 30, 2, 5), points(1, 60, 3)
    plain = lattice_around(features, symmetric=False)
    scale = plain.filter(torch.ones(60, 1)).rsqrt()
    expected = scale * plain.filter(scale * values)
    torch.testing.assert_close(lattice_around(features).filter(values), expected)


def test_filter_is_linear_and_keeps_channels_apart():
    lattice_, values = lattice_around(points(0, 30, 1, 5)), points(1, 30, 3)
    doubled = lattice_.filter(2 * values)
    assert torch.equal(doubled, 2 * lattice_.filter(values))
    assert torch.equal(lattice_.filter(values[:, 1:2]), lattice_.filter(values)[:, 1:2])


def test_images_do_not_meet():
    features, values = points(0, 30, 2, 5), points(1, 30, 2, 3)
    both = lattice_around(features).filter(values.flatten(0, 1)).view(30, 2, 3)
    for image in range(2):
        alone = lattice_around(features[:, image : image + 1]).filter(values[:, image].contiguous())
        assert torch.equal(both[:, image], alone)
    values[:, 1] = 0
    assert not lattice_around(features).filter(values.flatten(0, 1)).view(30, 2, 3)[:, 1].any()


def test_a_small_table_takes_channels_one_by_one_with_the_same_result(monkeypatch):
    built, values = lattice_around(points(0, 30, 2, 5)), points(1, 60, 7)
    expected = built.filter(values)
    widths = Counter()
    whole = Lattice._filter
    monkeypatch.setattr(Lattice, "_filter", lambda self, some: widths.update([some.shape[1]]) or whole(self, some))
    for table, taken in {1: {1: 7}, 3 * (built.rows + 1): {3: 2, 1: 1}, 2**25: {7: 1}}.items():
        monkeypatch.setattr(crf_lattice, "TABLE", table)
        widths.clear()
        assert torch.equal(built.filter(values), expected)
        assert widths == taken


def test_a_bound_of_the_number_of_vertices_does_as_well_as_the_number(monkeypatch):
    """As on a GPU, which is not asked for it."""
    images = drawn_texture(12)[None].repeat(2, 1, 1, 1)
    energies = torch.stack([predict_logits(k, 3, 12) for k in range(2)])
    expected = lattice_mean_field(images, energies, training_kernel(5))
    monkeypatch.setattr(crf_lattice, "table_rows", len)
    assert torch.equal(lattice_mean_field(images, energies, training_kernel(5)), expected)


def test_points_of_one_vertex_are_summed_in_their_order():
    """What makes equal input give equal bits on every device."""
    built = lattice_around(points(0, 30, 2, 2))
    splat, *_, slice_ = built.matrices
    starts = splat.starts.tolist()
    assert starts[-1] == starts[-2] == len(splat.columns) == 2 * 31 * 3
    rows = [splat.columns[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    # a ghost's weight is 0 and its column, the image's last point, stands last
    assert all((row.diff() >= 0).all() for row in rows) and len(rows[0]) > 0 and len(rows[-1]) == 0
    assert len(rows) == built.rows + 1 and (slice_.columns < built.rows).all()


@pytest.mark.parametrize("spread, composed", [(300, True), (2, False)])
def test_steps_become_one_where_points_hardly_meet(spread, composed):
    built, values = lattice_around(points(0, 30, 2, 2, spread=spread)), points(1, 60, 3)
    expected = built.filter(values)
    assert (len(built.compose().matrices) == 1) == composed
    torch.testing.assert_close(built.filter(values), expected)


def test_features_too_far_apart_are_refused():
    far = torch.tensor([[[0.0] * 5], [[1e5] * 5]])
    with pytest.raises(ValueError, match="too wide: expected larger deviations"):
        lattice_around(far)
    lattice_around(far[..., :2])


# Devices


class Watch(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self):
        super().__init__()
        self.ran = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.ran[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


# operations that hand to Python, or to another device, what a tensor holds or how many of its values are so and so
WAITING = {
    "_local_scalar_dense",
    "item",
    "nonzero",
    "is_nonzero",
    "equal",
    "_to_copy",
    "_unique2",
    "unique_consecutive",
}


def test_iterations_do_not_wait_for_the_device():
    images, energies = drawn_texture(12)[None], predict_logits(0, 3, 12)[None]
    ran = []
    for iterations in (0, 4):
        with Watch() as watch:
            lattice_mean_field(images, energies, training_kernel(iterations))
        ran.append(watch.ran)
    more = ran[1] - ran[0]
    assert more["_embedding_bag_forward_only"] == 4 * (1 + 2 + 6) and not WAITING.intersection(more)
    assert WAITING.intersection(ran[0])  # building does, so the names are right


def test_all_tensors_are_made_on_the_device_of_the_energies():
    """A tensor made without one would land on the default device, and mixing devices is an error."""
    images, energies = drawn_texture(12)[None], predict_logits(0, 3, 12)[None]
    expected = lattice_mean_field(images, energies, training_kernel(2))
    with torch.device("meta"):
        assert torch.equal(lattice_mean_field(images, energies, training_kernel(2)), expected)


def test_nothing_is_summed_by_atomic_additions():
    """On a GPU these would add in another order every time, or slowly where torch is told to be deterministic."""
    with Watch() as watch:
        lattice_mean_field(drawn_texture(12)[None], predict_logits(0, 3, 12)[None], training_kernel(1))
    assert not {name for name in watch.ran if name.startswith(("index_add", "scatter_add", "scatter_reduce", "put"))}
    assert not watch.ran["index_put_"] and not watch.ran["mm"] and watch.ran["_embedding_bag_forward_only"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives_and_the_same_twice():
    images, energies = drawn_texture(41)[None], predict_logits(0, 21, 41)[None]
    here = lattice_mean_field(images, energies, training_kernel(10))
    there = [lattice_mean_field(images.cuda(), energies.cuda(), training_kernel(10)) for _ in "ab"]
    assert torch.equal(*there) and there[0].is_cuda
    assert (there[0].cpu() - here).abs().mean() < 1e-5


# pydensecrf


def predict_logits(seed: int, classes: int, side: int) -> Tensor:
    """Energies float32 (classes, side, side) of smooth random probabilities, as a network gives them."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 2, (max(2, side // 8), max(2, side // 8), classes)).astype(np.float32)
    logits = np.dstack(
        [cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC) for grid in np.moveaxis(coarse, 2, 0)]
    )
    return -torch.from_numpy(logits).movedim(2, 0).log_softmax(0).clamp(min=-9.2)


def drawn_texture(side: int) -> Tensor:
    """uint8 (3, side, side): stripes, a disc and a dark corner under noise and shading."""
    rng = np.random.default_rng(side)
    down, right = np.mgrid[:side, :side] / side
    image = 120 + 60 * np.sin(25 * (right + 0.3 * down)) * np.array([1.0, 0.6, -0.4])[:, None, None]
    image = np.where((down - 0.6) ** 2 + (right - 0.55) ** 2 < 0.06, np.array([200, 80, 60])[:, None, None], image)
    image = image * np.minimum(1, 1.6 * (down + right)) + rng.normal(0, 6, image.shape)
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8))


def assert_as_pydensecrf(image: Tensor, energies: Tensor, parameters: dict) -> None:
    ours = lattice_mean_field(image[None], energies[None], Kernel(**parameters, iterations=10))[0].numpy()
    theirs = mean_field(image.numpy(), energies.numpy(), Kernel(**parameters, iterations=10))
    assert abs(ours - theirs).mean() < 1e-6
    assert (ours.argmax(0) == theirs.argmax(0)).mean() > 0.999
    # the CRF decided something
    assert (theirs.argmax(0) != energies.numpy().argmin(0)).mean() > 0.01


def photos(count: int, side: int) -> list[Tensor]:
    """None where there are no real images."""
    files = islice(sorted((REAL_VOC / "JPEGImages").glob("*.jpg")), 0, 50 * count, 50)
    sizes = (cv2.resize(cv2.imread(str(file)), (side, side), interpolation=cv2.INTER_AREA) for file in files)
    return [torch.from_numpy(image[:, :, ::-1].copy()).movedim(2, 0).contiguous() for image in sizes]


@needs_pydensecrf
@pytest.mark.parametrize("name", KERNELS)
def test_pydensecrf_gives_the_same_on_the_grid(name):
    for image in [*map(drawn_texture, (39, 40, 41, 42)), *photos(10, 41)]:
        assert_as_pydensecrf(image, predict_logits(len(image[0]), 21, len(image[0])), KERNELS[name])


@needs_pydensecrf
@pytest.mark.parametrize("name", ["test", "deeplab"])
def test_pydensecrf_gives_the_same_on_whole_images(name):
    for image in [drawn_texture(321), *photos(1, 321)]:
        assert_as_pydensecrf(image, predict_logits(0, 4, 321), KERNELS[name])
