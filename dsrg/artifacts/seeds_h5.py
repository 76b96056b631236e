"""data/seeds.h5: seeds, saliency and activation maps of every training image, one row an image.

    ids       (N,) utf-8                seeds     (N, h, w) uint8 label map, 255 = unlabelled
    present   (N, C+1) bool             saliency  (N, h, w) float16, 0..1; NaN = seeds came without any
    cams      (K, h, w) float16, 0..1   only the tagged classes of each image, K rows in all
    cam_class (K,) uint8, 1..C          cam_row   (K,) int32, the image's row

Chunked an image at a time, gzip + shuffle + fletcher32. Attributes: format, version, classes, grid_stride, params
(JSON) and, written last, complete = 1.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from dsrg.errors import InputError
from dsrg.files import whole_file

FORMAT, VERSION, GRID_STRIDE = "dsrg-seeds", 1, 8
AGAIN = "run the stage `make_seeds` again"


@dataclass(frozen=True)
class SeedRow:
    """One image: seeds uint8 (h, w), saliency float (h, w), cams float (k, h, w) of the classes `cam_class` (k,).

    Seeds that were not made here have saliency NaN and no activation maps.
    """

    image_id: str
    present: NDArray[np.bool_]
    seeds: NDArray[np.uint8]
    saliency: NDArray[np.floating]
    cams: NDArray[np.floating]
    cam_class: NDArray[np.uint8]


def write_seeds(path: Path, rows: Iterable[SeedRow], *, count: int, grid: int, classes: list[str], params: str) -> None:
    """Stream `count` rows into a seeds file, whole or not at all; the same rows give the same bytes."""
    chunked = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:

        def dataset(name: str, shape: tuple[int, ...], dtype: object, **options: object) -> h5py.Dataset:
            return file.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]), **chunked, **options)

        seeds = dataset("seeds", (count, grid, grid), np.uint8)
        saliency = dataset("saliency", (count, grid, grid), np.float16)
        cams = dataset("cams", (0, grid, grid), np.float16, maxshape=(None, grid, grid))
        ids, present, cam_class, cam_row = [], [], [], []
        for row_number, row in enumerate(rows):
            seeds[row_number] = row.seeds
            saliency[row_number] = row.saliency
            cams.resize(len(cam_class) + len(row.cams), axis=0)
            if len(row.cams):
                cams[len(cam_class) :] = row.cams
            ids.append(row.image_id)
            present.append(row.present)
            cam_class += list(row.cam_class)
            cam_row += [row_number] * len(row.cams)
        if len(ids) != count:
            raise ValueError(f"expected {count} rows, got {len(ids)}")
        file.create_dataset("ids", data=ids, dtype=h5py.string_dtype())
        for name, column in {
            "present": np.array(present, bool),
            "cam_class": np.array(cam_class, np.uint8),
            "cam_row": np.array(cam_row, np.int32),
        }.items():
            file.create_dataset(name, data=column, chunks=True, fletcher32=True)
        file.attrs.update(format=FORMAT, version=VERSION, classes=classes, grid_stride=GRID_STRIDE, params=params)
        file.attrs["complete"] = 1


@dataclass(frozen=True)
class Seeds:
    """A seeds file in memory but for its maps: ids (N,), present bool (N, C+1), seeds uint8 (N, h, w)."""

    path: Path
    ids: list[str]
    present: NDArray[np.bool_]
    seeds: NDArray[np.uint8]

    def in_order(self, ids: list[str]) -> NDArray[np.uint8]:
        """Seeds in the order of `ids`. Raises InputError for ids without seeds."""
        return self.seeds[self._rows(ids)]

    def tags_in_order(self, ids: list[str]) -> NDArray[np.bool_]:
        """Tags in the order of `ids`, bool (K, C+1): the index's, but for seeds imported with tags of their own."""
        return self.present[self._rows(ids)]

    def _rows(self, ids: list[str]) -> list[int]:
        place = {image_id: row for row, image_id in enumerate(self.ids)}
        missing = [image_id for image_id in ids if image_id not in place]
        if missing:
            raise InputError(f"{self.path}: no seeds for {', '.join(missing[:10])}; {AGAIN}")
        return [place[image_id] for image_id in ids]

    def maps(self, image_id: str) -> tuple[NDArray[np.float32] | None, dict[int, NDArray[np.float32]]]:
        """One image's saliency (h, w), if known, and its activation maps by class, each (h, w).

        Raises InputError as above.
        """
        row = self.ids.index(image_id)
        with _opened(self.path) as file:
            places = np.flatnonzero(file["cam_row"][:] == row)
            cams = {int(file["cam_class"][place]): file["cams"][place].astype(np.float32) for place in places}
            saliency = file["saliency"][row].astype(np.float32)
            return None if np.isnan(saliency).all() else saliency, cams


def read_seeds(path: Path, *, classes: list[str], grid: int | None = None) -> Seeds:
    """Open a seeds file. Raises InputError when it is incomplete, damaged, of another version, classes or grid."""
    with _opened(path) as file:
        attributes = dict(file.attrs)
        if attributes.get("format") != FORMAT or attributes.get("version") != VERSION:
            raise InputError(f"{path}: not a seeds file of version {VERSION}; {AGAIN}")
        if attributes.get("complete") != 1:
            raise InputError(f"{path}: incomplete; {AGAIN}")
        if list(attributes["classes"]) != classes:
            raise InputError(f"{path}: made for the classes {', '.join(attributes['classes'])}; {AGAIN}")
        ids = [str(image_id) for image_id in file["ids"].asstr()[:]]
        seeds = file["seeds"][:]
        if grid is not None and seeds.shape[1:] != (grid, grid):
            raise InputError(f"{path}: seeds of {seeds.shape[1:]} cells, data.size needs {(grid, grid)}; {AGAIN}")
        return Seeds(path, ids, file["present"][:], seeds)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """A seeds file to read; whatever goes wrong with a damaged one becomes an InputError."""
    try:
        with h5py.File(path) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {AGAIN}") from None
    except (OSError, LookupError, RuntimeError, TypeError, ValueError) as error:  # as h5py raises them
        raise InputError(f"{path}: not readable as HDF5 seeds ({' '.join(str(error).split())}); {AGAIN}") from None
