"""Label maps of many images, one PNG each."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.data.images import read_mask
from dsrg.errors import InputError


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
