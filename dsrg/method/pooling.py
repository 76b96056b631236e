"""From scores of pixels to scores of an image (Pinheiro & Collobert 2015, section 3.2)."""

from math import log

from torch import Tensor


def pooled_scores(scores: Tensor, *, sharpness: float) -> Tensor:
    """Log-sum-exp over the pixels, float (..., h, w) -> (...): 1/r log mean exp(r f) (equation 6).

    It lies between the mean (r near 0) and the maximum (r large), of which it falls short by at most log(pixels) / r.

    >>> import torch
    >>> round(float(pooled_scores(torch.tensor([[0.0, 1.0]]), sharpness=5)), 5)
    0.86271
    """
    flat = scores.flatten(-2)
    return ((sharpness * flat).logsumexp(dim=-1) - log(flat.shape[-1])) / sharpness
