"""dsrg.method.crf: laws of both engines, and mean field written out with every pair of pixels."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsrg.inference.crf import dense_crf_over_workers
from dsrg.method.crf import clamped, dense_crf, engine_on, unary_energies
from dsrg.runtime import workers
from helpers.crf import PAPER, PAPER_IN_TRAINING, needs_pydensecrf

# weights so low that the result stays far from one-hot, where every approximation would look good
GENTLE = PAPER | {"gaussian_weight": 1.0, "bilateral_weight": 1.0}


@pytest.fixture(params=[pytest.param("pydensecrf", marks=needs_pydensecrf), "lattice"])
def refine(request):
    """`dense_crf` by each engine."""
    return partial(dense_crf, engine=request.param)


@pytest.fixture(autouse=True)
def one_process(processes):
    processes(1)


def two_colors(seed: int, height: int = 6, width: int = 7) -> tuple[Tensor, Tensor]:
    """Noisy pixels of two grays, and noisy energies of three classes of which two follow the gray."""
    rng = np.random.default_rng(seed)
    bright = rng.integers(0, 2, (height, width))
    image = 60 + 100 * bright + rng.integers(-8, 9, (3, height, width))
    energies = rng.normal(0, 1, (3, height, width)) + np.multiply.outer([1.5, -1.5, 0], bright)
    return torch.from_numpy(image.astype(np.uint8))[None], torch.from_numpy(energies.astype(np.float32))[None]


def batch_of(size: int) -> tuple[Tensor, Tensor]:
    images, energies = zip(*map(two_colors, range(size)), strict=True)
    return torch.cat(images), torch.cat(energies)


# Exact mean field


def exact_mean_field(image: Tensor, energies: Tensor, *, iterations: int, **kernel: float) -> NDArray[np.float64]:
    """One image, every pair of pixels: Kraehenbuehl and Koltun 2011, kernels normalized symmetrically."""
    classes, height, width = energies.shape
    place = np.indices((height, width)).reshape(2, -1).T
    color = image.double().flatten(1).T.numpy()
    smooth = gaussian(place / kernel["gaussian_xy"])
    alike = gaussian(np.hstack([place / kernel["bilateral_xy"], color / kernel["bilateral_rgb"]]))
    pairwise = kernel["gaussian_weight"] * smooth + kernel["bilateral_weight"] * alike
    unary = -energies.double().flatten(1)
    probs = unary.softmax(0)
    for _ in range(iterations):
        probs = (unary + probs @ torch.from_numpy(pairwise)).softmax(0)
    return probs.reshape(classes, height, width).numpy()


def gaussian(features: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(-((features[:, None] - features[None]) ** 2).sum(-1) / 2)
    norm = 1 / np.sqrt(weights.sum(1))
    return norm[:, None] * weights * norm


# The permutohedral lattice of both engines approximates the kernels. Largest differences measured over 400 such images:
# .015, .018, .007, .017 in the order below, against a least movement from the unaries of .10, .15, .04, .09.
@pytest.mark.parametrize(
    "kernel, iterations, tolerance",
    [
        pytest.param(GENTLE, 1, 0.02, id="one round"),
        pytest.param(GENTLE, 10, 0.025, id="ten rounds"),
        pytest.param(GENTLE | {"bilateral_weight": 0.0}, 10, 0.01, id="only gaussian"),
        pytest.param(GENTLE | {"gaussian_weight": 0.0}, 10, 0.025, id="only bilateral"),
    ],
)
def test_marginals_are_close_to_exact_mean_field(kernel, iterations, tolerance, refine):
    for seed in range(20):
        images, energies = two_colors(seed)
        exact = exact_mean_field(images[0], energies[0], **kernel, iterations=iterations)
        probs = refine(images, energies, **kernel, iterations=iterations)[0].numpy()
        assert abs(probs - exact).max() < tolerance
        assert abs(exact - energies[0].neg().softmax(0).numpy()).max() > 3 * tolerance


# The paper's weights drive the marginals to one-hot, and the approximation can tip a whole region of one color: in 400
# images 1.1 % of the pixels differed by more than .05 with the kernel of the test, 2.2 % with that of the training.
@pytest.mark.parametrize("kernel", [PAPER, PAPER_IN_TRAINING], ids=["test", "training"])
def test_with_the_papers_weights_nearly_all_marginals_are_close_to_exact_mean_field(kernel, refine):
    differ = []
    for seed in range(40):
        images, energies = two_colors(seed)
        exact = exact_mean_field(images[0], energies[0], **kernel, iterations=10)
        probs = refine(images, energies, **kernel, iterations=10)[0].numpy()
        differ.append((abs(probs - exact) > 0.05).any(0))
    assert np.mean(differ) < 0.06


# Laws


@pytest.mark.parametrize("kernel", [PAPER, PAPER_IN_TRAINING, GENTLE], ids=["test", "training", "gentle"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (23, 17)], ids=str)
def test_marginals_are_probabilities(kernel, size, refine):
    images, energies = two_colors(0, *size)
    probs = refine(images, energies, **kernel, iterations=10)
    assert probs.shape == energies.shape and probs.dtype == torch.float32
    assert probs.min() >= 0
    torch.testing.assert_close(probs.sum(1), torch.ones(1, *size))


def test_a_flat_image_without_opinion_stays_without(refine):
    images, energies = torch.full((1, 3, 12, 9), 77, dtype=torch.uint8), torch.full((1, 5, 12, 9), 1.6)
    torch.testing.assert_close(refine(images, energies, **PAPER, iterations=10), torch.full((1, 5, 12, 9), 0.2))


def test_without_iterations_it_is_the_softmax_of_minus_the_energies(refine):
    images, energies = batch_of(3)
    torch.testing.assert_close(refine(images, energies, **PAPER, iterations=0), energies.neg().softmax(1))


def test_a_constant_a_pixel_in_the_energies_changes_nothing(refine):
    images, energies = two_colors(0)
    shifted = energies + torch.linspace(-3, 3, 42).view(1, 1, 6, 7)
    probs = refine(images, energies, **GENTLE, iterations=5)
    torch.testing.assert_close(refine(images, shifted, **GENTLE, iterations=5), probs, atol=1e-5, rtol=0)


def test_permuted_classes_give_permuted_marginals(refine):
    images, energies = two_colors(0)
    order = torch.tensor([2, 0, 1])
    probs = refine(images, energies, **GENTLE, iterations=5)
    permuted = refine(images, energies[:, order], **GENTLE, iterations=5)
    torch.testing.assert_close(permuted, probs[:, order], atol=1e-5, rtol=0)


def test_a_class_that_wins_nowhere_still_decides_who_does(refine):
    images, energies = two_colors(3)
    labels = refine(images, energies, **PAPER, iterations=10).argmax(1)
    without = refine(images, energies[:, :2], **PAPER, iterations=10).argmax(1)
    assert (labels != 2).all() and (labels != without).any()


def test_a_class_out_of_reach_changes_nothing(refine):
    images, energies = two_colors(3)
    further = torch.cat([energies, energies.amax(1, keepdim=True) + 150], dim=1)
    probs = refine(images, further, **PAPER, iterations=10)
    assert (probs[:, 3] == 0).all()
    expected = refine(images, energies, **PAPER, iterations=10)
    torch.testing.assert_close(probs[:, :3], expected, atol=1e-5, rtol=0)


def test_labels_follow_the_edges_of_the_image(refine):
    """Two classes disagree at random pixels; each side of the image is of one color and gets one label."""
    rng = np.random.default_rng(0)
    right = np.arange(20) >= 8
    images = np.where(right, 200, 50)[None, None, None].repeat(3, 1).repeat(16, 2).astype(np.uint8)
    says_right = right ^ (rng.random((16, 20)) < 0.2)
    probs = torch.from_numpy(np.where(says_right, 0.7, 0.3).astype(np.float32))
    energies = -torch.stack([1 - probs, probs]).log()[None]
    labels = refine(torch.from_numpy(images), energies, **PAPER, iterations=10).argmax(1)
    assert torch.equal(labels[0] == 1, torch.from_numpy(right).expand(16, 20))


def test_one_class_is_certain(refine):
    images, energies = two_colors(0)
    assert (refine(images, energies[:, :1], **PAPER, iterations=10) == 1).all()


# Batches and engines


def test_a_batch_without_images_has_no_marginals(refine):
    """The losses are ready for one, too."""
    images, energies = batch_of(2)
    probs = refine(images[:0], energies[:0], **GENTLE, iterations=2)
    assert probs.shape == energies[:0].shape and probs.dtype == torch.float32
    assert torch.equal(probs, dense_crf_over_workers(images[:0], energies[:0], **GENTLE, iterations=2))


@needs_pydensecrf
def test_a_batch_gives_what_its_images_give_alone_in_one_process_or_two(processes):
    images, energies = batch_of(5)
    pairs = zip(images.split(1), energies.split(1), strict=True)
    alone = torch.cat([dense_crf(*pair, **GENTLE, iterations=10) for pair in pairs])
    for count in (1, 2):
        processes(count)
        assert torch.equal(dense_crf_over_workers(images, energies, **GENTLE, iterations=10), alone)
    assert workers.pool.cache_info().currsize == 1  # the second really went through the pool
    assert torch.equal(dense_crf(images, energies, **GENTLE, iterations=10, engine="pydensecrf"), alone)


def test_a_batch_gives_what_its_images_give_alone_on_the_lattice_in_one_thread_or_two(processes):
    images, energies = batch_of(5)
    lattice = GENTLE | {"iterations": 10, "engine": "lattice"}
    alone = torch.cat([dense_crf(*pair, **lattice) for pair in zip(images.split(1), energies.split(1), strict=True)])
    assert torch.equal(dense_crf(images, energies, **lattice), alone)
    processes(2)
    assert torch.equal(dense_crf_over_workers(images, energies, **lattice), alone)


@pytest.mark.parametrize("iterations, error", [(1, nullcontext()), (None, pytest.raises(TypeError))])
def test_threads_that_start_after_the_lattice_have_their_operations_divided_as_before(processes, iterations, error):
    images, energies = batch_of(2)
    processes(2)
    torch.set_num_threads(2)
    try:
        with error:
            dense_crf_over_workers(images, energies, **GENTLE, engine="lattice", iterations=iterations)
        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("device, expected", [("cuda", "lattice"), ("cuda:1", "lattice"), ("cpu", "pydensecrf")])
def test_auto_is_the_lattice_on_cuda(device, expected):
    assert engine_on(torch.device(device)) == expected


def test_arguments_stay_as_they_were_and_need_not_be_contiguous(refine):
    images, energies = batch_of(2)
    before = images.clone(), energies.clone()
    probs = refine(images, energies, **GENTLE, iterations=3)
    assert torch.equal(images, before[0]) and torch.equal(energies, before[1])
    strided = [argument.movedim(1, 3).contiguous().movedim(3, 1) for argument in before]
    assert torch.equal(refine(*strided, **GENTLE, iterations=3), probs)


def test_no_gradient_passes(refine):
    images, energies = two_colors(0)
    assert not refine(images, energies.requires_grad_(), **PAPER, iterations=1).requires_grad


def test_an_image_of_another_size_than_the_energies_is_refused(refine):
    images, _ = two_colors(0, 5, 7)
    with pytest.raises(ValueError, match="shape"):
        refine(images, two_colors(0)[1], **PAPER, iterations=1)


# Energies


def column(*probs: float) -> Tensor:
    return torch.tensor(probs, dtype=torch.float64).view(1, -1, 1, 1)


def test_energies_are_minus_the_probabilities_or_minus_their_logarithms():
    probs = column(0.5, 0.375, 0.125, 0)
    assert unary_energies(probs, unary="prob", min_prob=0.25).flatten().tolist() == [-0.5, -0.375, -0.25, -0.25]
    expected = -np.log([0.5, 0.375, 0.25, 0.25])
    assert unary_energies(probs, unary="logp", min_prob=0.25).flatten().tolist() == pytest.approx(expected)


def test_clamped_probabilities_are_renormalized():
    assert clamped(column(0.75, 0.25, 0), min_prob=0.25).flatten().tolist() == pytest.approx([0.6, 0.2, 0.2])
    probs = column(0.5, 0.5)
    assert torch.equal(clamped(probs, min_prob=1e-4), probs)
