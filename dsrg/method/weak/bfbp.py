"""Built-in foreground/background prior: tags pooled inside, background outside of a mask (Saleh et al., ECCV 2016).

Not verified, from notes on the paper and from memory: the terms' normalizers and r = 5. The paper makes its mask from
the network's own activations in every step; here it is made once and comes as seeds.
"""

from torch import Tensor

from dsrg.method.losses import masked_mean, smoothed_softmax


def loss(
    logits: Tensor, *, present: Tensor, seeds: Tensor, images: Tensor, step: int, sharpness: float, min_prob: float
) -> Tensor:
    """Tags pooled over the foreground, background over the background, absent classes over all pixels, (B,).

    Minus the mean over tags of log S(foreground), minus log S(background) of background, minus the mean over absent
    classes of log(1 - S(all)); S is `pooled_probs`. A term over no pixel or class is left out.

    Args:
        seeds: 0 = the mask's background; anything else, unlabeled too, its foreground.
        sharpness: r of `pooled_probs`, above 0.
        min_prob: see `smoothed_softmax`; keeps the logarithms finite.

    >>> import torch
    >>> seeds = torch.tensor([[[0, 255], [0, 255]]], dtype=torch.uint8)
    >>> present = torch.tensor([[True, True, *[False] * 19]])
    >>> settings = {"images": None, "step": 0, "sharpness": 5, "min_prob": 1e-4}
    >>> round(float(loss(torch.zeros(1, 21, 2, 2), present=present, seeds=seeds, **settings)), 3)
    6.138
    """
    probs = smoothed_softmax(logits, min_prob=min_prob)
    background = (seeds == 0)[:, None]
    everywhere = background | ~background
    tags = pooled_probs(probs[:, 1:], ~background, sharpness=sharpness)
    outside = pooled_probs(probs[:, :1], background, sharpness=sharpness)
    others = pooled_probs(probs[:, 1:], everywhere, sharpness=sharpness)
    tagged = present[:, 1:]
    return -(
        masked_mean(tags.log(), tagged & ~background.all(dim=(2, 3)))
        + masked_mean(outside.log(), background.any(dim=(2, 3)))
        + masked_mean((1 - others).log(), ~tagged)
    )


def pooled_probs(probs: Tensor, mask: Tensor, *, sharpness: float) -> Tensor:
    """1/r log of the mean of exp(r q) over a mask, float (B, K, h, w), bool (B, 1, h, w) -> (B, K); 1 of an empty mask.

    Between mean and maximum. On probabilities, r = 5 is close to the mean:

    >>> import torch
    >>> one_of_1681 = torch.eye(41)[:1].new_zeros(1, 1, 41, 41).index_fill(2, torch.tensor(0), 0)
    >>> one_of_1681[0, 0, 0, 0] = 1
    >>> round(float(pooled_probs(one_of_1681, one_of_1681 >= 0, sharpness=5)), 4)
    0.0168
    """
    # mean exp(rq) - 1 keeps its digits where q is small
    excess = ((sharpness * probs).expm1() * mask).sum(dim=(2, 3))
    count = mask.sum(dim=(2, 3))
    pooled = (excess / count.clamp(min=1)).log1p() / sharpness
    return pooled.where(count > 0, 1)
