"""What the segmentation network is trained on: probabilities and losses on them (paper section 3.2; SEC)."""

import torch
from torch import Tensor

from dsrg.method.grid import UNLABELED


def smoothed_softmax(logits: Tensor, *, min_prob: float) -> Tensor:
    """Softmax over dim 1 with `min_prob` added and renormalized, so that no logarithm is infinite.

    float (B, C+1, h, w) -> float (B, C+1, h, w). Released code: `SoftmaxLayer`, min_prob 1e-4.
    """
    probs = logits.softmax(dim=1) + min_prob
    return probs / probs.sum(dim=1, keepdim=True)


def seeding_loss(probs: Tensor, labels: Tensor, *, balanced: bool, reduction: str = "mean") -> Tensor:
    """Minus the mean log probability of the labeled pixels, per image, then the mean over images.

    Balanced (paper section 3.2; released `BalancedSeedLossLayer`): foreground pixels of all classes together and
    background pixels are two terms, each divided by its own count. Plain (SEC's, `SeedLossLayer`): one mean over all
    labeled pixels. An image without labeled pixels adds nothing; it still counts in the mean over images.

    Args:
        probs: float (B, C+1, h, w), 0..1, above 0.
        labels: uint8 (B, h, w) label map; 255 is ignored.
        reduction: "mean" over images, or "none".

    Returns:
        scalar, or (B,).

    >>> probs = torch.full((1, 4, 2, 2), 0.25)
    >>> labels = torch.tensor([[[0, 3], [255, 255]]], dtype=torch.uint8)
    >>> float(seeding_loss(probs, labels, balanced=True)) / float(torch.tensor(4.0).log())
    2.0
    """
    labeled = labels != UNLABELED
    classes = torch.where(labeled, labels, 0).long()
    log_probs = probs.gather(1, classes[:, None])[:, 0].log()
    if balanced:
        background = labels == 0
        means = masked_mean(log_probs, background) + masked_mean(log_probs, labeled & ~background)
    else:
        means = masked_mean(log_probs, labeled)
    return -means if reduction == "none" else -mean_or_zero(means)


def boundary_loss(
    probs: Tensor, crf_probs: Tensor, *, ratio_clip: float | None, crf_gradient: bool, reduction: str = "mean"
) -> Tensor:
    """KL divergence of the network's probabilities from the CRF's, KL(Q || P), mean over pixels and images.

    Paper section 3.2, SEC's constrain-to-boundary loss. Q, the CRF's output, is a target, through which no gradient
    passes. Two options come from the released code (`ConstrainLossLayer`, `CRFLayer`), which the paper does not have.

    Args:
        probs: P, float (B, C+1, h, w), above 0.
        crf_probs: Q, float (B, C+1, h, w), above 0.
        ratio_clip: bound r, above 1, of the ratio Q / P, taken within 1/r..r (released: 20); None = no bound. Beyond
            it a pixel still costs, but its ratio no longer pulls P.
        crf_gradient: True lets Q follow P as released: d log Q / d P counts as 1 - Q, pixel by pixel.
        reduction: "mean" over images too, or "none": (B,).
    """
    target = crf_probs.detach()
    if crf_gradient:
        # the same value, with the derivative Q (1 - Q) in P
        target = target * (1 + (1 - target) * (probs - probs.detach()))
    if ratio_clip is None:
        log_ratio = target.log() - probs.log()
    else:
        log_ratio = (target / probs).clamp(1 / ratio_clip, ratio_clip).log()
    divergence = (target * log_ratio).sum(dim=1)
    return divergence.mean(dim=(1, 2)) if reduction == "none" else mean_or_zero(divergence)


def mean_or_zero(values: Tensor) -> Tensor:
    """Mean of values of any shape, a scalar; 0 where there are none, as of a batch without images."""
    return values.mean() if values.numel() else values.sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (B, ...) where mask is true, per image (B,); 0 where it never is."""
    values, mask = values.flatten(1), mask.flatten(1)
    return torch.where(mask, values, 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
