"""Class activation maps on the seed grid."""

from pathlib import Path

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dsrg.artifacts.model_file import built, load_model
from dsrg.inference.preprocess import scaled_side, warp_to_square
from dsrg.method.grid import grid_size
from dsrg.method.seeds import normalize_cams
from dsrg.networks.network import CamClassifier, corner_aligned


def load_classifier(path: Path, *, stage_name: str, classes: list[str] | None = None) -> CamClassifier:
    """A classifier ready to use, on the GPU where there is one; see `load_model`."""
    model = load_model(path, kind="classifier", stage_name=stage_name, classes=classes)
    classifier = built(CamClassifier, model, path=path, stage_name=stage_name)
    return classifier.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def activation_maps(
    classifier: CamClassifier, images: list[NDArray], *, size: int, scales: list[float], flip: bool
) -> Tensor:
    """Mean over scales (and mirror images) of each class's evidence, negative left out.

    Args:
        images: uint8 (H, W, 3) RGB of any sizes; each is warped to a square of scale * size pixels.

    Returns:
        float (B, C, h, w) with h = w = grid of `size`, >= 0, not normalized.
    """
    grid = grid_size(size)
    total = 0
    for scale in scales:
        side = scaled_side(size, scale)
        batch = warp_to_square(images, side).to(next(classifier.parameters()).device)
        for mirrored in [False, True] if flip else [False]:
            maps = classifier.maps(batch.flip(3) if mirrored else batch).clamp(min=0)
            maps = corner_aligned(maps, stride=classifier.output_stride, height=side, width=side)
            maps = F.interpolate(maps, (grid, grid), mode="bilinear", align_corners=True)
            total = total + (maps.flip(3) if mirrored else maps)
    return total / (len(scales) * (1 + flip))


def stored_cams(maps: Tensor, present: Tensor) -> Tensor:
    """Activation maps as the seeds file holds them, and as seeds are made from them: what float16 keeps of 0..1.

    maps: float (B, C, h, w), on any device; present: bool (B, C+1) -> float32 (B, C, h, w), untagged classes 0.
    """
    return (normalize_cams(maps.cpu()) * present[:, 1:, None, None]).half().float()
