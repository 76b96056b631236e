"""Prohibitive segmentation learning: mined seeds, and what the network itself says among the tags (Wei et al. 2017).

Not verified, from memory of the paper: the weighting by a classifier's scores. Here a tag weighs 1, another class 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dsrg.method.grid import UNLABELED
from dsrg.method.losses import masked_mean


def loss(logits: Tensor, *, present: Tensor, seeds: Tensor, images: Tensor, step: int) -> Tensor:
    """Cross-entropy with the seeds, mean over seeded pixels, plus that with the network's own labels, (B,).

    These are the likeliest class of each pixel among the image's tags and background. An image without seeds has the
    second term alone.

    >>> logits = torch.tensor([1.0, 0.0, 2.0]).log().clamp(min=-9).view(1, 3, 1, 1)  # class 2 likeliest, but absent
    >>> present, seeds = torch.tensor([[True, True, False]]), torch.tensor([[[1]]], dtype=torch.uint8)
    >>> value = loss(logits, present=present, seeds=seeds, images=None, step=0)
    >>> torch.allclose(value, -logits.log_softmax(1)[0, [1, 0], 0, 0].sum())
    True
    """
    own = logits.detach().masked_fill(~present[:, :, None, None], -torch.inf).argmax(dim=1)
    seeded = seeds != UNLABELED
    targets = torch.where(seeded, seeds, 0).long()
    cross_entropy = F.cross_entropy(logits, targets, reduction="none")
    return masked_mean(cross_entropy, seeded) + F.cross_entropy(logits, own, reduction="none").mean(dim=(1, 2))
