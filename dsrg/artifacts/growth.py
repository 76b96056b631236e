"""The grown seeds of the images that a training was watched on, as `train_dsrg` writes them: ID/STEP.png."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.data.images import read_mask


def read_growth(maps: Path, image_id: str) -> dict[int, NDArray[np.uint8]]:
    """Grown seeds by step, uint8 (h, w) each; empty for an image that was not watched."""
    return {int(path.stem): read_mask(path) for path in sorted((maps / image_id).glob("*.png"))}
