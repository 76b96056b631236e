"""EM-Adapt: labels in which background and each tag win a share of the image (Papandreou et al., ICCV 2015)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def loss(
    logits: Tensor,
    *,
    present: Tensor,
    seeds: Tensor,
    images: Tensor,
    step: int,
    bg_share: float,
    fg_share: float,
    passes: int,
    bg_bias: float | None,
    fg_bias: float | None,
) -> Tensor:
    """Mean cross-entropy of the pixels with the labels of the E-step, (B,) (sections 3.1 and 4.3, supplement A).

    bg_share, fg_share, passes: see `adapted_labels`. bg_bias, fg_bias: logits added to background and to each tag
    instead (EM-Fixed; paper: 3 and 5); None = EM-Adapt.
    """
    with torch.no_grad():
        if bg_bias is None:
            shares = {"bg_share": bg_share, "fg_share": fg_share, "passes": passes}
            labels = adapted_labels(logits, present, step=step, **shares)
        else:
            biases = torch.full(present.shape[1:], fg_bias, device=logits.device)
            biases[:1] = bg_bias
            scores = logits + biases[:, None, None]
            labels = scores.masked_fill(~present[:, :, None, None], -torch.inf).argmax(dim=1)
    return F.cross_entropy(logits, labels, reduction="none").mean(dim=(1, 2))


def adapted_labels(
    logits: Tensor, present: Tensor, *, step: int, bg_share: float, fg_share: float, passes: int
) -> Tensor:
    """The E-step: the likeliest class once each was raised until it wins its share of the pixels, int64 (B, h, w).

    Background first, then the tags: a class is raised by the share-quantile of what it lacks to the best at each
    pixel, the floor(share * pixels)-th smallest from 0. So it wins that many pixels outright and ties at one more, or
    has them already and stays. Only the last one is sure to keep them. Where the shares add up to more than 1, nothing
    fails. The paper visits tags in random order; here the order turns with `step`. Ties go to the lower class.

    Args:
        logits: float (B, C+1, h, w); what is added to all classes of a pixel changes nothing.
        present: bool (B, C+1); absent classes win nothing.
        bg_share, fg_share: 0..1, of the pixels (paper: 0.4 and 0.2).
        passes: rounds over all classes, biases adding up (released default 1; a port that reproduces the paper: 5).

    >>> logits = torch.tensor([[[[5.0, 4, 3, 2, 1]], [[0.0, 0, 0, 0, 0]]]])
    >>> shares = {"bg_share": 0.4, "fg_share": 0.2, "passes": 1}
    >>> adapted_labels(logits, torch.tensor([[True, True]]), step=0, **shares).tolist()
    [[[0, 0, 0, 0, 1]]]
    >>> logits = torch.stack([torch.zeros(10), torch.arange(20, 10, -1)])[None, :, None]
    >>> adapted_labels(logits, torch.tensor([[True, True]]), step=0, **shares).tolist()  # the sixth ties
    [[[1, 1, 1, 1, 1, 0, 0, 0, 0, 0]]]
    """
    # sums and differences of float32 numbers are exact in float64, and so are ties
    scores = logits.double().flatten(2).masked_fill(~present[:, :, None], -torch.inf)
    best, order, pixels = scores.amax(dim=1), visiting_order(present, step=step), scores.shape[2]
    for place in [*range(present.shape[1])] * passes:
        share = fg_share if place else bg_share
        rank = min(int(share * pixels + 1e-9), pixels - 1)  # 0.29 * 100 is 28.999...
        classes = order[:, place, None]
        row = classes[:, :, None].expand(-1, 1, pixels)
        own = scores.gather(1, row)[:, 0]
        bias = (best - own).kthvalue(rank + 1, dim=1, keepdim=True).values
        own = own + torch.where(present.gather(1, classes), bias, 0)
        best = torch.maximum(best, own)
        scores = scores.scatter(1, row, own[:, None])
    return scores.argmax(dim=1).view(len(logits), *logits.shape[2:])


def visiting_order(present: Tensor, *, step: int) -> Tensor:
    """Classes in the order of their visits, int64 (B, C+1): background, the tags from another one each step, the rest.

    >>> visiting_order(torch.tensor([[True, True, False, True]]), step=1).tolist()
    [[0, 3, 1, 2]]
    """
    tags = present[:, 1:]
    count = tags.sum(dim=1, keepdim=True)
    turned = (tags.cumsum(dim=1) - 1 + step) % count.clamp(min=1)
    absent = torch.arange(tags.shape[1], device=tags.device) + tags.shape[1]
    places = torch.where(tags, turned, absent)
    return torch.cat([torch.zeros_like(count), places.argsort(dim=1) + 1], dim=1)
