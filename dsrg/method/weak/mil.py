"""MIL-FCN: background and each tagged class learn from the one pixel they win most (Pathak et al., ICLR-W 2015)."""

from torch import Tensor

from dsrg.method.losses import masked_mean


def loss(logits: Tensor, *, present: Tensor, seeds: Tensor, images: Tensor, step: int) -> Tensor:
    """Minus the mean over the image's classes of the log probability at each one's likeliest pixel, (B,).

    Section 3. Of equal pixels the first in reading order is taken. Nothing is said of absent classes but by the
    softmax. Two classes that choose one pixel stick at a half each.

    >>> import torch
    >>> logits = torch.tensor([[[[0.0, 1.0]], [[2.0, 0.0]]]])  # background takes the second pixel, the class the first
    >>> present = torch.tensor([[True, True]])
    >>> round(float(loss(logits, present=present, seeds=None, images=None, step=0)), 4)
    0.2201
    """
    log_probs = logits.log_softmax(dim=1).flatten(2)
    best = log_probs.argmax(dim=2, keepdim=True)
    return -masked_mean(log_probs.gather(2, best)[:, :, 0], present)
