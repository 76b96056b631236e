"""dsrg.method.losses: cases worked out by hand, literal loops, gradients."""

from functools import partial
from math import log

import numpy as np
import pytest
import torch
from torch import Tensor

from dsrg.method import losses
from dsrg.method.grid import UNLABELED as U
from dsrg.method.losses import seeding_loss, smoothed_softmax

PAPER = {"ratio_clip": None, "crf_gradient": False}
boundary_loss = partial(losses.boundary_loss, **PAPER)
both_seeding_losses = pytest.mark.parametrize("balanced", [True, False], ids=["balanced", "plain"])


def random_probs(seed: int, shape: tuple[int, ...] = (3, 4, 5, 6)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).mul(2).softmax(1)


def random_labels(seed: int, shape: tuple[int, ...] = (3, 5, 6)) -> Tensor:
    choice = torch.randint(0, 6, shape, generator=torch.Generator().manual_seed(seed))
    return torch.tensor([0, 1, 2, 3, U, U], dtype=torch.uint8)[choice]


# Smoothed softmax


def test_smoothed_softmax_by_hand():
    logits = torch.tensor([log(3.0), 0.0], dtype=torch.float64).view(1, 2, 1, 1)  # softmax 3/4, 1/4
    probs = smoothed_softmax(logits, min_prob=0.25)
    assert probs.flatten().tolist() == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("scale", [0, 1, 1e4])
def test_smoothed_softmax_sums_to_1_between_its_bounds(scale):
    logits = torch.randn(2, 21, 4, 4, generator=torch.Generator().manual_seed(0)) * scale
    probs = smoothed_softmax(logits, min_prob=1e-4)
    total = 1 + 21e-4
    assert torch.allclose(probs.sum(1), torch.ones(2, 4, 4))
    assert probs.min() >= 1e-4 / total * (1 - 1e-5) and probs.max() <= (1 + 1e-4) / total * (1 + 1e-5)
    assert torch.equal(probs.argmax(1), logits.argmax(1))
    assert probs.log().isfinite().all()


def test_smoothed_softmax_without_smoothing_is_softmax():
    logits = random_probs(0).log()
    torch.testing.assert_close(smoothed_softmax(logits, min_prob=0), logits.softmax(1))


# Seeding loss


@pytest.mark.parametrize("classes", [1, 3, 20])
@pytest.mark.parametrize("shape", [(1, 2), (7, 9)], ids=str)
def test_uniform_probabilities_cost_log_of_the_classes_a_term(classes, shape):
    probs = torch.full((1, classes + 1, *shape), 1 / (classes + 1), dtype=torch.float64)
    labels = torch.full((1, *shape), classes, dtype=torch.uint8)
    labels[0, 0, 0] = 0
    assert float(seeding_loss(probs, labels, balanced=True)) == pytest.approx(2 * log(classes + 1))
    assert float(seeding_loss(probs, labels, balanced=False)) == pytest.approx(log(classes + 1))


def literal_seeding_loss(probs: Tensor, labels: Tensor, *, balanced: bool) -> float:
    """Equation 1 pixel by pixel; the plain loss is its one-term form."""
    losses = []
    for image_probs, image_labels in zip(probs.tolist(), labels.tolist(), strict=True):
        terms = {"background": [], "foreground": []}
        for y, row in enumerate(image_labels):
            for x, label in enumerate(row):
                if label != U:
                    terms["background" if label == 0 else "foreground"].append(-log(image_probs[label][y][x]))
        if not balanced:
            terms = {"all": terms["background"] + terms["foreground"]}
        losses.append(sum(sum(term) / len(term) for term in terms.values() if term))
    return sum(losses) / len(losses)


@both_seeding_losses
@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [0], [1, 2, 3], []], ids=["all", "background", "foreground", "none"])
@pytest.mark.parametrize("seed", range(3))
def test_seeding_loss_equals_the_literal_loops(seed, kept, balanced):
    probs, labels = random_probs(seed), random_labels(seed)
    labels[1:][~torch.isin(labels[1:], torch.tensor(kept, dtype=torch.uint8))] = U  # but for the first image
    expected = literal_seeding_loss(probs, labels, balanced=balanced)
    assert float(seeding_loss(probs, labels, balanced=balanced)) == pytest.approx(expected, rel=1e-12)
    assert float(seeding_loss(probs.float(), labels, balanced=balanced)) == pytest.approx(expected, rel=1e-5)


@both_seeding_losses
@pytest.mark.parametrize("kept", [[], [0], [1, 2, 3]], ids=["no seeds", "only background", "only foreground"])
def test_gradients_are_finite_and_vanish_at_unlabeled_pixels(balanced, kept):
    logits = (torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0)) * 1000).requires_grad_()
    labels = random_labels(0, (2, 5, 6))
    labels[~torch.isin(labels, torch.tensor(kept, dtype=torch.uint8))] = U
    loss = seeding_loss(smoothed_softmax(logits, min_prob=1e-4), labels, balanced=balanced)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert not logits.grad.movedim(1, 3)[labels == U].any()


# Boundary loss


def test_a_step_along_the_gradient_brings_the_network_towards_the_crf():
    """KL(Q || P), not KL(P || Q): by hand its gradient in the logits is (P - Q) / pixels."""
    logits, crf_probs = random_probs(0).log().requires_grad_(), random_probs(1)
    boundary_loss(logits.softmax(1), crf_probs).backward()
    pixels = logits.numel() / logits.shape[1]
    torch.testing.assert_close(logits.grad, (logits.softmax(1) - crf_probs).detach() / pixels)


def far_apart(seed: int, shape: tuple[int, ...] = (3, 4, 5, 6)) -> tuple[Tensor, Tensor]:
    """P and Q whose ratios lie on both sides of the released bounds."""
    generator = torch.Generator().manual_seed(seed)
    probs, crf_probs = torch.randn(2, *shape, generator=generator, dtype=torch.float64).mul(3).softmax(2)
    ratio = crf_probs / probs
    assert (ratio < 0.05).any() and (ratio > 20).any() and ((ratio > 0.05) & (ratio < 20)).any()
    return probs, crf_probs


def literal_released_gradient(p, q, *, low: float, high: float, crf_gradient: bool) -> tuple[float, np.ndarray]:
    """`ConstrainLossLayer` and `CRFLayer.backward` by hand: loss = mean over n, u of sum over c of Q log clip(Q / p).

    d loss / d p is -Q / p inside the bounds; d loss / d log Q is Q (log clip(Q / p) + 1 inside the bounds). The CRF
    layer sends the latter on to p, times 1 - Q.
    """
    batch, classes, height, width = p.shape
    loss, gradient = 0.0, np.zeros_like(p)
    for n, c, y, x in np.ndindex(p.shape):
        ratio = q[n, c, y, x] / p[n, c, y, x]
        inside = low <= ratio <= high
        log_ratio = log(min(max(ratio, low), high))
        loss += q[n, c, y, x] * log_ratio
        if inside:
            gradient[n, c, y, x] -= ratio
        if crf_gradient:
            gradient[n, c, y, x] += (1 - q[n, c, y, x]) * q[n, c, y, x] * (log_ratio + inside)
    pixels = batch * height * width
    return loss / pixels, gradient / pixels


@pytest.mark.parametrize("crf_gradient", [False, True])
@pytest.mark.parametrize("ratio_clip", [None, 20.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_are_the_released_ones(seed, ratio_clip, crf_gradient):
    probs, crf_probs = far_apart(seed)
    probs.requires_grad_()
    crf_probs.requires_grad_()
    loss = losses.boundary_loss(probs, crf_probs, ratio_clip=ratio_clip, crf_gradient=crf_gradient)
    loss.backward()
    low, high = (0.0, float("inf")) if ratio_clip is None else (1 / ratio_clip, ratio_clip)
    expected, gradient = literal_released_gradient(
        probs.detach().numpy(), crf_probs.detach().numpy(), low=low, high=high, crf_gradient=crf_gradient
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12) and crf_probs.grad is None
    np.testing.assert_allclose(probs.grad.numpy(), gradient, rtol=1e-9, atol=1e-15)


def test_a_batch_without_images_costs_nothing():
    logits = torch.zeros(0, 4, 5, 6, requires_grad=True)
    probs = smoothed_softmax(logits, min_prob=1e-4)
    losses = [
        *(seeding_loss(probs, torch.zeros(0, 5, 6, dtype=torch.uint8), balanced=way) for way in (False, True)),
        *(boundary_loss(probs, probs, ratio_clip=clip, crf_gradient=True) for clip in (None, 20)),
    ]
    sum(losses).backward()
    assert [float(loss.detach()) for loss in losses] == [0] * 4 and logits.grad.isfinite().all()
