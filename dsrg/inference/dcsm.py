"""Class maps by guided back-propagation, less those of other classes (Shimoda and Yanai, ECCV 2016: DCSM).

The classifier is the one of the activation maps, which pools by the mean; the paper's pools by the maximum.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import inf, log2

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dsrg.errors import InputError
from dsrg.inference.preprocess import mean_over_looks
from dsrg.method.grid import grid_size
from dsrg.networks.network import CamClassifier, corner_aligned

SLOPE = 3.0  # of the tanh (paper)


def dcsm_maps(
    classifier: CamClassifier,
    images: list[NDArray],
    present: Tensor,
    *,
    size: int,
    scales: list[float],
    flip: bool,
    candidates: int,
) -> Tensor:
    """Where each tagged class shows, and other candidates do not: mean over scales (and mirror images).

    Candidates of an image are its tags and the classes with the next highest scores, `candidates` in all (paper: 4).

    images uint8 (H, W, 3) RGB of any sizes, each warped to squares of scale * size pixels; present bool (B, C+1) ->
    float32 (B, C, h, w) with h = w = grid of `size`, 0 to 1; 0 of classes that are no candidate. Raises InputError
    where the network has no ReLU to guide gradients by.
    """
    device = next(classifier.parameters()).device
    tags = present[:, 1:].to(device)
    count = tags.sum(dim=1).clamp(min=candidates)  # an image's candidates are its first in `order`

    def maps_of(batch: Tensor) -> Tensor:
        side = batch.shape[-1]
        with guided(classifier):
            layers, maps = layer_outputs(classifier, batch, finest=(side - 1) // 4 + 1)
            scores = maps.detach().mean(dim=(2, 3)).masked_fill(tags, inf)
            order = scores.argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
            strengths = []
            for score in maps.sum(dim=(2, 3)).gather(1, order).T:
                gradients = torch.autograd.grad(score.sum(), layers, retain_graph=True)
                grids = [_on_grid(one.abs().amax(dim=1), side=side, size=size) for one in gradients]
                strengths.append(torch.stack(grids, dim=1))
        places = torch.arange(order.shape[1], device=device)
        distinct = distinct_maps(torch.stack(strengths, dim=2), places < count[:, None])
        found = distinct.new_zeros(*tags.shape, *distinct.shape[2:])
        return found.scatter(1, order[:, :, None, None].expand_as(distinct), distinct)

    return mean_over_looks(maps_of, images, size=size, scales=scales, flip=flip, device=device)


def distinct_maps(strengths: Tensor, candidate: Tensor) -> Tensor:
    """Each class's map less each other's, in every layer, what is positive summed: float (B, K, h, w), 0 to 1.

    The sum over layers l and other candidates c' of tanh(3 d / max d), where it is positive, with d = G_l(c) - G_l(c');
    divided by its maximum, and through the tanh again (released `dcsm.m`).

    Args:
        strengths: G, float (B, L, K, h, w), >= 0.
        candidate: bool (B, K); others get a map of 0 and take nothing from any.

    >>> strengths = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]).view(1, 1, 2, 1, 3)
    >>> distinct_maps(strengths, torch.tensor([[True, True]])).squeeze().mul(1e5).round().tolist()
    [[99505.0, 0.0, 0.0], [0.0, 0.0, 99505.0]]
    >>> distinct_maps(strengths[:, :, [0, 0]], torch.tensor([[True, True]])).any().item()  # equal ones
    False
    """
    differences = strengths[:, :, :, None] - strengths[:, :, None]
    both = candidate[:, :, None] & candidate[:, None]
    total = (_saturated(differences).clamp(min=0) * both[:, None, :, :, None, None]).sum(dim=(1, 3))
    return _saturated(total)


def _saturated(maps: Tensor) -> Tensor:
    """tanh of 3 times the share of the maximum of each map (..., h, w)."""
    highest = maps.amax(dim=(-2, -1), keepdim=True)
    return (SLOPE * maps / torch.where(highest > 0, highest, 1)).tanh()


def layer_outputs(classifier: CamClassifier, batch: Tensor, *, finest: int) -> tuple[list[Tensor], Tensor]:
    """Outputs of the backbone's convolving layers from a width of `finest` cells on, and the class maps.

    With a quarter of the image's pixels those of VGG16 are conv3_1 to conv5_3.
    batch uint8 (B, 3, S, S) -> float (B, channels, h, w) each, ready for gradients; float (B, C, h, w).
    """
    outputs = []
    features = classifier.normalize(batch)
    for layer in classifier.backbone.children():
        with torch.set_grad_enabled(bool(outputs)):
            features = layer(features)
        if features.shape[-1] <= finest and any(isinstance(module, nn.Conv2d) for module in layer.modules()):
            outputs.append(features if outputs else features.detach().requires_grad_())
            if len(outputs) == 1:
                with torch.enable_grad():
                    features = outputs[0].clone()  # what follows may work in place
    with torch.enable_grad():
        return outputs, classifier.maps_of(features)


def _on_grid(maps: Tensor, *, side: int, size: int) -> Tensor:
    """Maps (B, h, w) of a square of `side` pixels on the seed grid of `size`, corners on corners."""
    stride = 2 ** round(log2(side / maps.shape[-1]))
    aligned = corner_aligned(maps[:, None], stride=stride, height=side, width=side)
    return F.interpolate(aligned, 2 * [grid_size(size)], mode="bilinear", align_corners=True)[:, 0]


class _GuidedReLU(torch.autograd.Function):
    """Clamps values to 0..highest; what passes back is positive and of values in between (Springenberg et al. 2015)."""

    @staticmethod
    def forward(ctx: object, highest: float, values: Tensor) -> Tensor:
        ctx.save_for_backward((values > 0) & (values < highest))
        return values.clamp(0, highest)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient.clamp(min=0) * ctx.saved_tensors[0]


@contextmanager
def guided(network: nn.Module) -> Iterator[None]:
    """Meanwhile every ReLU and ReLU6 of a network lets only positive gradients back. Raises InputError without any."""
    relus = [module for module in network.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]
    if not relus:
        raise InputError("seeds.maps: dcsm follows gradients through ReLUs, and this backbone has none; use maps: cam")
    for relu in relus:
        relu.forward = partial(_GuidedReLU.apply, getattr(relu, "max_val", inf))
    try:
        yield
    finally:
        for relu in relus:
            del relu.forward
