"""What the segmentation network is trained on: probabilities, seeding loss, boundary loss (paper section 3.2)."""

import torch
from torch import Tensor

from dsrg.method.growing import UNLABELLED


def smoothed_softmax(logits: Tensor, *, min_prob: float) -> Tensor:
    """Softmax over dim 1 with `min_prob` added and renormalised, so that no logarithm is infinite.

    float (B, C+1, h, w) -> float (B, C+1, h, w). Released code: `SoftmaxLayer`, min_prob 1e-4.
    """
    probs = logits.softmax(dim=1) + min_prob
    return probs / probs.sum(dim=1, keepdim=True)


def seeding_loss(probs: Tensor, labels: Tensor, *, balanced: bool) -> Tensor:
    """Minus the mean log probability of the labelled pixels, per image, then the mean over images.

    Balanced (paper equation 1; released `BalancedSeedLossLayer`): foreground pixels of all classes together and
    background pixels are two terms, each divided by its own count. Plain (SEC's, `SeedLossLayer`): one mean over all
    labelled pixels. An image without labelled pixels adds nothing; it still counts in the mean over images.

    Args:
        probs: float (B, C+1, h, w), 0..1, above 0.
        labels: uint8 (B, h, w) label map; 255 is ignored.

    Returns:
        scalar.

    >>> probs = torch.full((1, 4, 2, 2), 0.25)
    >>> labels = torch.tensor([[[0, 3], [255, 255]]], dtype=torch.uint8)
    >>> float(seeding_loss(probs, labels, balanced=True)) / float(torch.tensor(4.0).log())
    2.0
    """
    labelled = labels != UNLABELLED
    classes = torch.where(labelled, labels, 0).long()
    log_probs = probs.gather(1, classes[:, None])[:, 0].log()
    if balanced:
        background = labels == 0
        means = _masked_mean(log_probs, background) + _masked_mean(log_probs, labelled & ~background)
    else:
        means = _masked_mean(log_probs, labelled)
    return -means.mean()


def boundary_loss(probs: Tensor, crf_probs: Tensor) -> Tensor:
    """KL divergence of the network's probabilities from the CRF's, KL(Q || P), mean over pixels and images.

    Paper equation 3, SEC's constrain-to-boundary loss. Q, the CRF's output, is a target: no gradient passes it.

    Args:
        probs: P, float (B, C+1, h, w), above 0.
        crf_probs: Q, float (B, C+1, h, w), above 0.
    """
    target = crf_probs.detach()
    return (target * (target.log() - probs.log())).sum(dim=1).mean()


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (B, h, w) where mask is true, per image (B,); 0 where it never is."""
    count = mask.sum(dim=(1, 2))
    return torch.where(mask, values, 0).sum(dim=(1, 2)) / count.clamp(min=1)
