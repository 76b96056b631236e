"""Class activation maps on the seed grid."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dsrg.artifacts.model_file import built, load_model
from dsrg.data.batches import erase
from dsrg.data.index import Index
from dsrg.inference.dcsm import dcsm_maps
from dsrg.inference.preprocess import BATCH, image_batches, mean_over_looks
from dsrg.method.grid import grid_size
from dsrg.method.seeds import normalize_cams
from dsrg.networks.network import CamClassifier, corner_aligned


def load_classifier(path: Path, *, classes: list[str] | None = None) -> CamClassifier:
    """The classifier of the stage `train_cam`, ready to use, on the GPU where there is one; see `load_model`."""
    model = load_model(path, kind="classifier", stage_name="train_cam", classes=classes)
    classifier = built(CamClassifier, model, path=path, stage_name="train_cam")
    return classifier.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def activation_maps(
    classifier: CamClassifier, images: list[NDArray], *, size: int, scales: list[float], flip: bool
) -> Tensor:
    """Mean over scales (and mirror images) of each class's evidence, negative left out.

    images uint8 (H, W, 3) RGB of any sizes, each warped to squares of scale * size pixels -> float (B, C, h, w) with
    h = w = grid of `size`, >= 0, not normalized.
    """
    grid, device = grid_size(size), next(classifier.parameters()).device

    def maps_of(batch: Tensor) -> Tensor:
        maps, side = classifier.maps(batch).clamp(min=0), batch.shape[-1]
        maps = corner_aligned(maps, stride=classifier.output_stride, height=side, width=side)
        return F.interpolate(maps, (grid, grid), mode="bilinear", align_corners=True)

    return mean_over_looks(maps_of, images, size=size, scales=scales, flip=flip, device=device)


def tag_maps(
    classifier: CamClassifier,
    images: list[NDArray],
    present: Tensor,
    *,
    size: int,
    scales: list[float],
    flip: bool,
    candidates: int | None = None,
) -> Tensor:
    """Maps of the tagged classes as the seeds file holds them; of several rounds their maximum.

    A class is above a threshold there where it is in any round. Each round sees the images without what those before
    it found (`CamClassifier.later`; Wei et al. 2017, AE-PSL).

    Args:
        images: uint8 (H, W, 3) RGB of any sizes.
        present: bool (B, C+1), on the CPU.
        candidates: None = activation maps; else `dcsm_maps` of so many classes.

    Returns:
        float32 (B, C, h, w) with h = w = grid of `size`, 0..1, untagged classes 0.
    """
    look = {"size": size, "scales": scales, "flip": flip}

    def maps(network: CamClassifier, shown: list[NDArray]) -> Tensor:
        if candidates is None:
            return stored_cams(activation_maps(network, shown, **look), present)
        return stored_cams(dcsm_maps(network, shown, present, **look, candidates=candidates), present)

    found = maps(classifier, images)
    for later in classifier.later:
        mined = (found > classifier.erase_thresh).any(dim=1).numpy()
        rest = [erase(image, cells) for image, cells in zip(images, mined, strict=True)]
        found = torch.maximum(found, maps(later, rest))
    return found


def erased_cells(classifier: CamClassifier, index: Index, *, size: int) -> NDArray[np.bool_]:
    """Cells of each image where one of its tags is above `classifier.erase_thresh`, at one scale: bool (N, h, w)."""
    maps = (
        tag_maps(classifier, images, torch.from_numpy(index.present[rows]), size=size, scales=[1.0], flip=False)
        for rows, images in image_batches(index, batch=BATCH)
    )
    return np.concatenate([(found > classifier.erase_thresh).any(dim=1).numpy() for found in maps])


def stored_cams(maps: Tensor, present: Tensor) -> Tensor:
    """Activation maps as the seeds file holds them, and as seeds are made from them: what float16 keeps of 0..1.

    maps: float (B, C, h, w), on any device; present: bool (B, C+1) -> float32 (B, C, h, w), untagged classes 0.
    """
    return (normalize_cams(maps.cpu()) * present[:, 1:, None, None]).half().float()
