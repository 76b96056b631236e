"""How well a classifier names what is in an image."""

import torch
from torch import Tensor

from dsrg.data.index import Index
from dsrg.inference.preprocess import image_batches, warp_to_square
from dsrg.networks.network import CamClassifier


@torch.inference_mode()
def tag_scores(classifier: CamClassifier, index: Index, *, size: int, batch: int = 16) -> Tensor:
    """Scores float (N, C) of every image, as squares of `size` pixels."""
    device = next(classifier.parameters()).device
    batches = image_batches(index, batch=batch)
    return torch.cat([classifier(warp_to_square(images, size).to(device)).cpu() for _, images in batches])


def mean_average_precision(scores: Tensor, present: Tensor) -> float:
    """Mean over classes of the average precision, 0..1; classes that no image has are left out (NaN if none is left).

    scores float (N, C); present bool (N, C+1).
    """
    tags = torch.as_tensor(present)[:, 1:]
    precisions = [_average_precision(*column) for column in zip(scores.T, tags.T, strict=True) if column[1].any()]
    return float(torch.tensor(precisions).mean())


def _average_precision(scores: Tensor, tagged: Tensor) -> float:
    """Mean over the tagged images of the precision among all images that score as high: float (N,), bool (N,)."""
    found = scores[tagged]
    as_high = len(scores) - torch.searchsorted(scores.sort().values, found)
    tagged_as_high = len(found) - torch.searchsorted(found.sort().values, found)
    return float((tagged_as_high / as_high).mean())
