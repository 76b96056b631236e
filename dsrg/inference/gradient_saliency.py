"""Background from a classifier's gradients, SEC's cue (released `weak-localization/background/localization.ipynb`)."""

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dsrg.inference.dcsm import layer_outputs
from dsrg.inference.preprocess import warp_to_square
from dsrg.method.grid import grid_size
from dsrg.networks.network import CamClassifier


def gradient_saliency(classifier: CamClassifier, images: list[NDArray], *, size: int) -> Tensor:
    """How much the scores depend on each cell of the seed grid, as its rank in the image: low = background.

    The gradient of the sum of all classes' scores in the first convolution at stride 8, its largest absolute value
    over the channels, a 3x3 median, then the share of the grid's cells below. So `saliency < 0.1` takes the tenth of
    the cells that matters least, as SEC does. Of VGG16 the convolution is conv4_1, as in SEC; of vgg_mini the fourth
    block's first, of ResNet101 the second stage, of MobileNetV2 the first block at that stride. SEC trains a second
    classifier for this, with fully connected layers; here it is the one that gives the activation maps.

    images uint8 (H, W, 3) RGB of any sizes, each warped to a square of `size` pixels (8k+1) -> float32 (B, h, w), 0..1,
    with h = w = grid of `size`, on the classifier's device.
    """
    batch = warp_to_square(images, size).to(next(classifier.parameters()).device)
    gradient = score_gradient(classifier, batch, grid=grid_size(size))
    return shares_below(median3x3(gradient.abs().amax(dim=1)))


def score_gradient(classifier: CamClassifier, images: Tensor, *, grid: int) -> Tensor:
    """Gradient of the sum of all scores in the first convolution whose output is on the grid.

    images uint8 (B, 3, S, S) -> float32 (B, channels, grid, grid), of every image as if it were alone.
    """
    (first, *_), maps = layer_outputs(classifier, images, finest=grid)
    with torch.enable_grad():
        return torch.autograd.grad(maps.mean(dim=(2, 3)).sum(), first)[0]


def median3x3(maps: Tensor) -> Tensor:
    """Median of each pixel's 3x3 neighborhood, the edge repeated beyond it: float (B, h, w) -> float (B, h, w)."""
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")
    windows = F.unfold(padded, 3)
    # by sorting, because torch's median is not deterministic on GPUs
    return windows.sort(dim=1).values[:, 4].view(maps.shape)


def shares_below(maps: Tensor) -> Tensor:
    """Rank of each pixel in its map over the number of pixels, at the middle of its step: float (B, h, w), 0..1.

    Thus `< t` holds for t of the pixels, rounded. Of equal pixels the first in reading order is the lower.

    >>> shares_below(torch.tensor([[[0.1, 0.4], [0.3, 0.3]]])).tolist()
    [[[0.125, 0.875], [0.375, 0.625]]]
    """
    values = maps.flatten(1)
    ranks = values.argsort(dim=1, stable=True).argsort(dim=1)
    return ((ranks + 0.5) / values.shape[1]).view(maps.shape)
