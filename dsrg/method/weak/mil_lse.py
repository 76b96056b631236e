"""MIL with log-sum-exp pooling: each class's map becomes one score, a smooth maximum (Pinheiro & Collobert 2015)."""

from torch import Tensor

from dsrg.method.losses import masked_mean
from dsrg.method.pooling import pooled_scores


def loss(logits: Tensor, *, present: Tensor, seeds: Tensor, images: Tensor, step: int, sharpness: float) -> Tensor:
    """Minus the mean over the image's classes of the log softmax of the pooled scores, (B,).

    Section 3.2 has one label an image; the mean over several, background among them, is this project's. sharpness: r
    of `pooled_scores`, above 0 (paper: 5).
    """
    return -masked_mean(pooled_scores(logits, sharpness=sharpness).log_softmax(dim=1), present)
