"""CCNN: learn from the nearest label distribution that obeys constraints set by the tags (Pathak et al., ICCV 2015)."""

from typing import NamedTuple

import torch
from torch import Tensor

# Of the solver: what it finds does not depend on them.
HALVINGS = 24
ROUNDS = 60  # a third more than any case tried has needed
ENOUGH = 1e-6  # share of the pixels that is still missing: float32's last digits
TINY = 1e-7  # slope added where no share moves, as of logits far apart
ABSENT = -1e30  # score of absent classes


def loss(
    logits: Tensor,
    *,
    present: Tensor,
    seeds: Tensor,
    images: Tensor,
    step: int,
    bg_min: float,
    bg_max: float,
    fg_min: float,
    fg_slack: float,
) -> Tensor:
    """KL divergence of the network's distribution from its projection, mean over pixels, (B,). Settings: `project`.

    >>> logits = torch.tensor([9.0, 1.0]).log().view(1, 2, 1, 1).expand(1, 2, 4, 4)
    >>> settings = {"bg_min": 0.3, "bg_max": 0.7, "fg_min": 0.05, "fg_slack": 2}
    >>> present = torch.tensor([[True, True]])
    >>> round(float(loss(logits, present=present, seeds=None, images=None, step=0, **settings)), 4)
    0.1537
    """
    with torch.no_grad():
        log_target = project(logits, present, bg_min=bg_min, bg_max=bg_max, fg_min=fg_min, fg_slack=fg_slack).log_probs
    divergence = log_target.exp() * (log_target - logits.log_softmax(dim=1))
    return divergence.sum(dim=1).mean(dim=(1, 2))


class Projection(NamedTuple):
    """log_probs float32 (B, C+1, h, w), an absent class's so low that its exp is 0; biases float32 (B, C+1)."""

    log_probs: Tensor
    biases: Tensor


def project(
    logits: Tensor, present: Tensor, *, bg_min: float, bg_max: float, fg_min: float, fg_slack: float
) -> Projection:
    """The distribution P nearest to softmax(logits), by KL(P || softmax), that gives each class its share of pixels.

    None for absent classes; at least `fg_min` for each tag, between `bg_min` and `bg_max` for background (sections 3
    and 4; values of the released code). An image without tags is all background.

    P is the softmax with one bias a class, the multiplier of its constraint: a tag's lies between 0 and `fg_slack`, at
    which it may stay short of its share; background's is positive where it has too little, negative where it has too
    much, else 0. The released code finds them by projected gradient, here all images and classes move at once. A share
    rises with the class's own bias and falls with the others', so biases that start too low and rise no further than
    their own share needs never pass the solution: background starts so, by bisection. Newton's step for all together is
    tried first, and kept where no class gets too much by it, or it halves what is missing.

    >>> logits = torch.tensor([9.0, 1.0, 5.0]).log().view(1, 3, 1, 1).expand(1, 3, 4, 4)
    >>> settings = {"bg_min": 0.3, "bg_max": 0.7, "fg_min": 0.05, "fg_slack": 2}
    >>> found = project(logits, torch.tensor([[True, True, False]]), **settings)
    >>> [round(share, 5) for share in found.log_probs.exp()[0, :, 0, 0].tolist()]
    [0.7, 0.3, 0.0]
    >>> round(float(found.biases[0, 0].exp()), 4) == round(7 / 27, 4)
    True
    """
    scores = logits.float().flatten(2).masked_fill(~present[:, :, None], ABSENT)
    moving = present & present[:, 1:].any(dim=1, keepdim=True)
    biases = trial = safe = _background_alone(scores, moving, bg_min=bg_min, bg_max=bg_max)
    missing = torch.full_like(biases[:, :1], torch.inf)
    untested = torch.ones_like(missing, dtype=torch.bool)
    for _ in range(ROUNDS):
        probs = (scores + trial[:, :, None]).softmax(dim=1)
        shares = probs.mean(dim=2)
        targets, low, high = _targets(shares, trial, bg_min=bg_min, bg_max=bg_max, fg_min=fg_min, fg_slack=fg_slack)
        need = targets - shares
        free = moving & ~((trial <= low) & (need <= 0)) & ~((trial >= high) & (need >= 0))
        need = need.where(free, 0)
        largest = need.abs().amax(dim=1, keepdim=True)
        below = ((trial >= biases) & (need >= -ENOUGH)).all(dim=1, keepdim=True)
        kept = untested | below | (largest < missing / 2)
        biases, missing = torch.where(kept, trial, biases), torch.where(kept, largest, missing)
        if scores.device.type == "cpu" and bool((missing < ENOUGH).all()):  # elsewhere asking would mean waiting
            break
        slopes = torch.diag_embed(shares) - probs @ probs.mT / probs.shape[2]
        own = slopes.diagonal(dim1=1, dim2=2).clamp(min=TINY)
        rise = trial + need.sign() * (need.abs() / own).log1p()
        safe = torch.where(kept, rise.clamp(low, high), safe)
        step = _solve(slopes, need, free)
        room = torch.where(step > 0, (high - trial) / step.clamp(min=TINY), torch.inf).where(free, torch.inf)
        newton = trial + step * room.amin(dim=1, keepdim=True).clamp(max=1)  # as far as the first cap
        trial = torch.where(kept, newton.clamp(low, high), safe)
        untested = ~kept
    log_probs = (scores + biases[:, :, None]).log_softmax(dim=1)
    return Projection(log_probs.view(logits.shape), biases)


def _background_alone(scores: Tensor, moving: Tensor, *, bg_min: float, bg_max: float) -> Tensor:
    """Biases of 0, but for background the one that brings its share within bounds, from below, by bisection."""
    lead = scores[:, 0] - scores[:, 1:].logsumexp(dim=1)
    share = lead.sigmoid().mean(dim=1)
    target = torch.where(share > bg_max, bg_max, bg_min)
    # where no pixel, and where each pixel, has it
    low, high = target.logit() - lead.amax(dim=1), target.logit() - lead.amin(dim=1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = (lead + middle[:, None]).sigmoid().mean(dim=1) < target
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    biases = torch.zeros_like(scores[:, :, 0])
    biases[:, 0] = low.where(moving[:, 0] & ((share < bg_min) | (share > bg_max)), 0)
    return biases


def _targets(
    shares: Tensor, biases: Tensor, *, bg_min: float, bg_max: float, fg_min: float, fg_slack: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Shares that the classes should have, and the lowest and highest bias of each, (B, C+1); background's bound is the
    one on its bias's side of 0."""
    share, bias = shares[:, 0], biases[:, 0]
    more = (bias > 0) | ((bias == 0) & (share < bg_min))
    less = (bias < 0) | ((bias == 0) & (share > bg_max))
    targets, low, high = torch.full_like(shares, fg_min), torch.zeros_like(shares), torch.full_like(shares, fg_slack)
    targets[:, 0] = torch.where(more, bg_min, torch.where(less, bg_max, share))
    low[:, 0], high[:, 0] = torch.where(less, -torch.inf, 0), torch.where(more, torch.inf, 0)
    return targets, low, high


def _solve(slopes: Tensor, need: Tensor, free: Tensor) -> Tensor:
    """Changes of the biases that, were shares linear, would give the free classes what they need, (B, K)."""
    both = free[:, :, None] & free[:, None]
    matrix = slopes.where(both, 0) + torch.diag_embed(torch.where(free, TINY, 1.0))
    return torch.linalg.solve_ex(matrix, need[:, :, None])[0][:, :, 0].nan_to_num()
