"""SEC: seed, expand and constrain (Kolesnikov & Lampert, ECCV 2016), on which DSRG stands."""

from collections.abc import Callable

import torch
from torch import Tensor

from dsrg.method.losses import boundary_loss, masked_mean, seeding_loss, smoothed_softmax


def loss(
    logits: Tensor,
    *,
    present: Tensor,
    seeds: Tensor,
    images: Tensor,
    step: int,
    min_prob: float,
    expand_fg: float,
    expand_bg: float,
    crf: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Plain seeding loss on the seeds as they are, plus expansion loss, plus boundary loss, (B,) (sections 3.1 to 3.3).

    min_prob: see `smoothed_softmax`. expand_fg, expand_bg: decays of `expansion_loss`. crf: (images, probs) -> the
    probabilities, above 0, that a CRF makes of them.
    """
    probs = smoothed_softmax(logits, min_prob=min_prob)
    return (
        seeding_loss(probs, seeds, balanced=False, reduction="none")
        + expansion_loss(probs, present, fg_decay=expand_fg, bg_decay=expand_bg)
        + boundary_loss(probs, crf(images, probs.detach()), ratio_clip=None, crf_gradient=False, reduction="none")
    )


def expansion_loss(probs: Tensor, present: Tensor, *, fg_decay: float, bg_decay: float) -> Tensor:
    """Tagged classes and background should cover part of the image, other classes no pixel, (B,) (section 3.2).

    Three terms: minus the log of a tagged class's score, mean over those classes; minus log(1 - p) at the pixel where
    an untagged class is most probable, mean over those; minus the log of background's score. The score is a global
    weighted rank pooling: the mean of a class's probabilities over the pixels, the n-th highest (from 0) weighing
    decay ** n. Decay 0 is the maximum, 1 the plain mean. An image without tagged, or without untagged, classes adds
    nothing to that term.

    Args:
        probs: float (B, C+1, h, w), above 0 and below 1.
        present: bool (B, C+1), the image's classes; column 0, background, is true.
        fg_decay: 0..1, larger for larger objects; SEC 0.996.
        bg_decay: the same for background; SEC 0.999.

    >>> probs = torch.tensor([[[[0.5, 0.5]], [[0.25, 0.5]], [[0.25, 0.125]]]])
    >>> loss = expansion_loss(probs, torch.tensor([[True, True, False]]), fg_decay=0, bg_decay=1)
    >>> round(float(loss.exp()), 4) == round(1 / 0.5 / 0.75 / 0.5, 4)
    True
    """
    ranked = probs.flatten(2).sort(dim=2, descending=True).values
    pooled = _rank_pooled(ranked[:, 1:], decay=fg_decay)
    tagged = present[:, 1:]
    highest = ranked[:, 1:, 0]
    return -(
        masked_mean(torch.where(tagged, pooled, 1).log(), tagged)
        + masked_mean(torch.where(tagged, 1, 1 - highest).log(), ~tagged)
        + _rank_pooled(ranked[:, 0], decay=bg_decay).log()
    )


def _rank_pooled(ranked: Tensor, *, decay: float) -> Tensor:
    """Mean over the last axis, (..., n) -> (...), the i-th value weighing decay ** i."""
    weights = decay ** torch.arange(ranked.shape[-1], dtype=ranked.dtype, device=ranked.device)
    return ranked @ (weights / weights.sum())
