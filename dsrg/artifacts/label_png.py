"""Label maps as palette PNGs in VOC's colours: the pixels hold class numbers, a viewer shows colours."""

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsrg.data.images import read_mask
from dsrg.data.palette import voc_palette
from dsrg.errors import InputError

_PALETTE = voc_palette().tobytes()


def write_label_png(path: Path | BinaryIO, labels: NDArray[np.uint8]) -> None:
    """uint8 (H, W) -> a palette PNG of the same size; 255 = unlabelled."""
    image = Image.fromarray(labels)
    image.putpalette(_PALETTE)  # makes it a palette image
    image.save(path, format="PNG")


class LabelFolder:
    """ID.png of each id in a folder, read when asked for: folder[row] -> uint8 (H, W).

    Raises InputError at once when files are missing.
    """

    def __init__(self, folder: Path, ids: Iterable[str], *, made_by: str) -> None:
        self.paths = [folder / f"{image_id}.png" for image_id in ids]
        missing = [path.name for path in self.paths if not path.is_file()]
        if missing:
            raise InputError(
                f"{folder}: {len(missing)} of {len(self.paths)} label maps are missing ({', '.join(missing[:5])}...); "
                f"run the stage `{made_by}` again"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        return read_mask(self.paths[row])
