"""Label maps of many images, one PNG each, with a file of their checksums, as `sha256sum -c SHA256SUMS` reads it."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.data.images import Noted, read_mask
from dsrg.data.palette import label_png
from dsrg.errors import InputError
from dsrg.files import read_text, sha256, write_text
from dsrg.parallel import threaded_map

CHECKSUMS = "SHA256SUMS"


def write_label_maps(folder: Path, maps: Iterable[tuple[str, NDArray[np.uint8]]]) -> Iterator[NDArray[np.uint8]]:
    """Write ID.png of each (id, label map uint8 (H, W)); hands the maps on as they are there, in order.

    Threads write, while the next map is made.
    """

    def write(one: tuple[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
        image_id, labels = one
        (folder / f"{image_id}.png").write_bytes(label_png(labels))
        return labels

    return threaded_map(write, maps)


def write_checksums(folder: Path) -> None:
    """Note the checksums of a folder's PNGs, once all are there."""
    lines = (f"{sha256(path)}  {path.name}\n" for path in sorted(folder.glob("*.png")))
    write_text(folder / CHECKSUMS, "".join(lines))


class LabelFolder:
    """ID.png of each id in a folder, read when asked for: folder[row] -> uint8 (H, W).

    Raises InputError at once when files or their checksums are missing, and for a file that is not the one noted.
    """

    def __init__(self, folder: Path, ids: Iterable[str], *, made_by: str) -> None:
        again = f"run the stage `{made_by}` again"
        self.paths = [folder / f"{image_id}.png" for image_id in ids]
        missing = [path.name for path in self.paths if not path.is_file()]
        if missing:
            raise InputError(
                f"{folder}: {len(missing)} of {len(self.paths)} label maps are missing ({', '.join(missing[:5])}...); "
                f"{again}"
            )
        checksums = read_checksums(folder / CHECKSUMS, again=again)
        if unknown := [path.name for path in self.paths if path.name not in checksums]:
            raise InputError(f"{folder / CHECKSUMS}: {len(unknown)} label maps lack ({unknown[0]} ...); {again}")
        self.noted = [Noted(checksums[path.name], made_by) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        return read_mask(self.paths[row], noted=self.noted[row])


def read_checksums(path: Path, *, again: str) -> dict[str, str]:
    """Checksums by file name. Raises InputError, with the advice `again`, for a file that is missing or malformed."""
    try:
        lines = [re.fullmatch("([0-9a-f]{64})  (.+)", line) for line in read_text(path).split("\n")[:-1]]
    except InputError as error:
        raise InputError(f"{problem}; {again}" for problem in error.problems) from None
    if None in lines:
        raise InputError(f"{path}: line {lines.index(None) + 1}: expected a sha256 and a file's name; {again}")
    return {line[2]: line[1] for line in lines}
