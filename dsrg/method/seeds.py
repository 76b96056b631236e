"""Sure pixels to start from: foreground from activation maps, background from low saliency (paper section 3.1)."""

import torch
from torch import Tensor

from dsrg.method.grid import UNLABELED


def normalize_cams(cams: Tensor) -> Tensor:
    """Scale each map to a maximum of 1, negative evidence to 0: float (..., h, w) -> float (..., h, w) in 0..1.

    A map without positive evidence becomes all zeros.
    """
    cams = cams.clamp(min=0)
    highest = cams.amax(dim=(-2, -1), keepdim=True)
    return cams / torch.where(highest > 0, highest, 1)


def make_seeds(
    cams: Tensor,
    saliency: Tensor,
    present: Tensor,
    *,
    fg_thresh: float | Tensor,
    bg_thresh: float | Tensor,
    conflict: str,
) -> Tensor:
    """Foreground where a tagged class's map is high, background where saliency is low, the rest unlabeled.

    Foreground of class c: cams[c] > fg_thresh times the maximum of cams[c] (paper: 20 %). Background:
    saliency < bg_thresh (paper: 0.06 of DRFI saliency). Where they disagree, either foreground beats background and
    the class with the smaller area beats the larger ("smaller", as in the DSRG group's later code; between equal
    areas the higher index), or every pixel with more than one claim stays unlabeled ("unlabeled").

    Args:
        cams: float (B, C, h, w), >= 0, class 1 first.
        saliency: float (B, h, w), 0..1, high = object.
        present: bool (B, C+1).
        fg_thresh, bg_thresh: numbers, or one for each of the B: float (B, 1, 1, 1) and (B, 1, 1).
        conflict: "smaller" or "unlabeled".

    Returns:
        uint8 (B, h, w) label map.

    Raises:
        ValueError: for any other `conflict`.
    """
    if conflict not in ("smaller", "unlabeled"):
        raise ValueError(f"conflict: expected smaller or unlabeled, not {conflict!r}")
    claims = seed_claims(cams, saliency, present, fg_thresh=fg_thresh, bg_thresh=bg_thresh)
    background, fires = claims[:, 0], claims[:, 1:]
    area = fires.sum(dim=(2, 3), keepdim=True)
    # rank 1 is the largest class; a stable sort keeps the lower index first among equals, so the higher one wins
    rank = area[..., 0, 0].argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    strength, winner = (fires * rank[:, :, None, None]).max(dim=1)
    seeds = torch.where(strength > 0, winner + 1, torch.where(background, 0, UNLABELED))
    if conflict == "unlabeled":
        seeds = torch.where(claims.sum(dim=1) > 1, UNLABELED, seeds)
    return seeds.to(torch.uint8)


def seed_claims(
    cams: Tensor, saliency: Tensor, present: Tensor, *, fg_thresh: float | Tensor, bg_thresh: float | Tensor
) -> Tensor:
    """Which classes claim a pixel, before `make_seeds` decides between them: bool (B, C+1, h, w), background first."""
    highest = cams.amax(dim=(2, 3), keepdim=True)
    fires = (cams > fg_thresh * highest) & present[:, 1:, None, None]
    return torch.cat([(saliency < bg_thresh)[:, None], fires], dim=1)


def with_background(foreground: Tensor, saliency: Tensor, *, bg_thresh: float, conflict: str) -> Tensor:
    """Foreground seeds of another source and background where saliency is low, as in `make_seeds`.

    Args:
        foreground: uint8 (B, h, w) label map; its background is not taken.
        saliency, bg_thresh, conflict: as in `make_seeds`; where both claim a pixel, "smaller" gives it to the
            foreground and "unlabeled" to nobody.

    Returns:
        uint8 (B, h, w) label map.

    >>> with_background(torch.tensor([[[0, 7, 7, 255]]]), torch.tensor([[[0.9, 0.9, 0, 0]]]), bg_thresh=0.1,
    ...                 conflict="unlabeled").tolist()
    [[[255, 7, 255, 0]]]
    """
    claimed, background = (foreground != UNLABELED) & (foreground != 0), saliency < bg_thresh
    seeds = torch.where(claimed, foreground, torch.where(background, 0, UNLABELED))
    if conflict == "unlabeled":
        seeds = torch.where(claimed & background, UNLABELED, seeds)
    return seeds.to(torch.uint8)


def harmonic_seeds(cams: Tensor, saliency: Tensor, present: Tensor, *, thresh: float) -> Tensor:
    """Foreground where activation and saliency are both high, background everywhere else: no cell is unlabeled.

    The tagged class with the highest harmonic mean h = 2 / (1 / activation + 1 / saliency), where that is at least
    `thresh`; of equal ones the lower (Chaudhry et al. 2017, released `image_reader_segment.py`: 0.4).

    Args:
        cams: float (B, C, h, w), >= 0, class 1 first; each counts as a share of its maximum.
        saliency: float (B, h, w), 0..1, high = object.
        present: bool (B, C+1).
        thresh: above 0, at most 1.

    Returns:
        uint8 (B, h, w) label map.

    >>> cams = torch.tensor([[[[1.0, 0.8, 0.5]]]])  # h = .46, .436, .375
    >>> harmonic_seeds(cams, torch.tensor([[[0.3, 0.3, 0.3]]]), torch.tensor([[True, True]]), thresh=0.4).tolist()
    [[[1, 1, 0]]]
    """
    activation = normalize_cams(cams) * present[:, 1:, None, None]
    both = activation + saliency[:, None]
    means = 2 * activation * saliency[:, None] / torch.where(both > 0, both, 1)
    winner = means.argmax(dim=1)
    highest = means.gather(1, winner[:, None])[:, 0]
    return torch.where(highest < thresh, 0, winner + 1).to(torch.uint8)


def tag_probs(cams: Tensor, saliency: Tensor, present: Tensor, *, background: float, min_prob: float) -> Tensor:
    """Activation maps of one image read as probabilities of its classes and background, as input to a CRF.

    Background scores background * (1 - saliency), a class its activation; everything at least `min_prob`, then
    normalized. Not of the paper: the CRF labels that IRN (Ahn et al. 2019) trains on are made so, from a constant.

    Args:
        cams: float (C, h, w), 0..1; saliency: float (h, w), 0..1; present: bool (C+1,).

    Returns:
        float (K, h, w) for the K present classes, background first.
    """
    scores = torch.cat([(background * (1 - saliency))[None], cams[present[1:]]]).clamp(min=min_prob)
    return scores / scores.sum(dim=0)


def with_crf_labels(seeds: Tensor, labels: Tensor, *, use: str) -> Tensor:
    """What the CRF's label map makes of seeds, uint8 (..., h, w) both.

    use: "none" leaves the seeds, "agree" keeps those that it agrees with, "replace" takes it in their place (params
    `seeds.crf.use`). Any other is a ValueError.
    """
    if use not in ("none", "agree", "replace"):
        raise ValueError(f"use: expected none, agree or replace, not {use!r}")
    return {"none": seeds, "replace": labels}[use] if use != "agree" else agreed_seeds(seeds, labels)


def agreed_seeds(seeds: Tensor, labels: Tensor) -> Tensor:
    """Seeds that another label map agrees with; the others become unlabeled. uint8 (..., h, w) both."""
    return torch.where(seeds == labels, seeds, UNLABELED).to(torch.uint8)
