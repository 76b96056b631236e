"""MIL with log-sum-exp pooling: each class's map becomes one score, a smooth maximum (Pinheiro & Collobert 2015)."""

from math import log

from torch import Tensor

from dsrg.method.losses import masked_mean


def loss(logits: Tensor, *, present: Tensor, seeds: Tensor, images: Tensor, step: int, sharpness: float) -> Tensor:
    """Minus the mean over the image's classes of the log softmax of the pooled scores, (B,).

    Section 3.2 has one label an image; the mean over several, background among them, is this project's. sharpness: r
    of `pooled_scores`, above 0 (paper: 5).
    """
    return -masked_mean(pooled_scores(logits, sharpness=sharpness).log_softmax(dim=1), present)


def pooled_scores(logits: Tensor, *, sharpness: float) -> Tensor:
    """Log-sum-exp over the pixels, float (B, K, h, w) -> (B, K): 1/r log mean exp(r f) (equation 6).

    It lies between the mean (r near 0) and the maximum (r large), of which it falls short by at most log(pixels) / r.

    >>> import torch
    >>> round(float(pooled_scores(torch.tensor([[[[0.0, 1.0]]]]), sharpness=5)), 5)
    0.86271
    """
    scores = logits.flatten(2)
    return ((sharpness * scores).logsumexp(dim=2) - log(scores.shape[2])) / sharpness
