"""data/seeds.h5: seeds, saliency and activation maps of every training image, one row an image.

    ids       (N,) utf-8, padded        seeds     (N, h, w) uint8 label map, 255 = unlabelled
    present   (N, C+1) bool             saliency  (N, h, w) float16, 0..1; NaN = seeds came without any
    cams      (K, h, w) float16, 0..1   only the tagged classes of each image, K rows in all
    cam_class (K,) uint8, 1..C          cam_row   (K,) int32, the image's row

Chunked an image at a time, gzip + shuffle + fletcher32. Attributes: format, version, classes, grid_stride, params
(JSON) and, written last, complete = 1.

The first 512 bytes, which HDF5 leaves to its users, hold a line with the sha256 of all that follows. It is checked
before HDF5 sees the file: flipped bits can not only change what it reads, but crash it.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from dsrg.errors import InputError
from dsrg.files import whole_file
from dsrg.method.label_maps import UNLABELLED

FORMAT, VERSION, GRID_STRIDE = "dsrg-seeds", 2, 8
HEAD = 512  # bytes before HDF5's own
SEAL = b"dsrg-seeds, then HDF5 from byte 512 on, of sha256 "
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
    """Write `count` rows into a seeds file, whole or not at all; the same rows give the same bytes.

    The file grows in memory (some KB an image), because HDF5 can crash where a disk is full.
    """
    guess = 4 * count * grid * grid  # bytes, of saliency and one activation map an image: noise, which gzip leaves
    chunked = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}
    in_memory = {"driver": "core", "backing_store": False}
    with whole_file(path, size=guess) as temporary, h5py.File(path.name, "w", **in_memory) as file:

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
        names = [image_id.encode() for image_id in ids]
        for name, column in {
            "ids": np.array(names, h5py.string_dtype(length=max(map(len, names), default=1))),
            "present": np.array(present, bool),
            "cam_class": np.array(cam_class, np.uint8),
            "cam_row": np.array(cam_row, np.int32),
        }.items():
            file.create_dataset(name, data=column, chunks=True, fletcher32=True)
        file.attrs.update(format=FORMAT, version=VERSION, classes=classes, grid_stride=GRID_STRIDE, params=params)
        file.attrs["complete"] = 1
        file.flush()
        temporary.write_bytes(sealed(file.id.get_file_image()))


def sealed(content: bytes) -> bytes:
    """The bytes of a seeds file around those of HDF5."""
    return (SEAL + hashlib.sha256(content).hexdigest().encode() + b"\n").ljust(HEAD, b"\0") + content


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
        missing = [image_id for image_id in ids if image_id not in self._row]
        if missing:
            raise InputError(f"{self.path}: no seeds for {', '.join(missing[:10])}; {AGAIN}")
        return [self._row[image_id] for image_id in ids]

    @cached_property
    def _row(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.ids)}

    def maps(self, image_id: str) -> tuple[NDArray[np.float32] | None, dict[int, NDArray[np.float32]]]:
        """One image's saliency (h, w), if known, and its activation maps by class, each (h, w).

        Raises InputError as above.
        """
        (row,) = self._rows([image_id])
        with _opened(self.path) as file:
            places = np.flatnonzero(file["cam_row"][:] == row)
            cams = {int(file["cam_class"][place]): file["cams"][place].astype(np.float32) for place in places}
            saliency = file["saliency"][row].astype(np.float32)
            return None if np.isnan(saliency).all() else saliency, cams


def read_seeds(path: Path, *, classes: list[str], grid: int | None = None) -> Seeds:
    """Open a seeds file. Raises InputError when it is incomplete, damaged, of another version, classes or grid."""
    _refuse_damaged(path)
    with _opened(path) as file:
        attributes = dict(file.attrs)
        if attributes.get("format") != FORMAT or attributes.get("version") != VERSION:
            raise InputError(f"{path}: not a seeds file of version {VERSION}; {AGAIN}")
        if attributes.get("complete") != 1:
            raise InputError(f"{path}: incomplete; {AGAIN}")
        theirs = [str(name) for name in attributes["classes"]]
        if theirs != classes:
            raise InputError(f"{path}: made for the classes {', '.join(theirs)}; {AGAIN}")
        _refuse_odd(file, classes=len(classes))
        if grid is not None and file["seeds"].shape[1:] != (grid, grid):
            cells = file["seeds"].shape[1:]
            raise InputError(f"{path}: seeds of {cells} cells, data.size needs {(grid, grid)}; {AGAIN}")
        ids = [str(image_id) for image_id in file["ids"].asstr()[:]]
        present, seeds = file["present"][:], file["seeds"][:]
        if len(set(ids)) < len(ids) or ((seeds > len(classes)) & (seeds != UNLABELLED)).any():
            raise ValueError("an id twice, or a label that is no class")
        return Seeds(path, ids, present, seeds)


def _refuse_damaged(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}; {AGAIN}") from None
    if not head.startswith(SEAL):
        raise InputError(f"{path}: not a seeds file of version {VERSION}; {AGAIN}")
    if head.removeprefix(SEAL).rstrip(b"\0") != f"{found}\n".encode():
        raise InputError(f"{path}: damaged or cut off (its content is not of the sha256 in its first line); {AGAIN}")


def _refuse_odd(file: h5py.File, *, classes: int) -> None:
    """Raises ValueError for datasets of other kinds than `write_seeds` makes, or that stand for more than they hold."""
    if any(not isinstance(file.get(name, getlink=True), h5py.HardLink) for name in file):
        raise ValueError("a link to another file")
    (count,), (maps,), (_, *grid) = (file[name].shape for name in ("ids", "cam_row", "seeds"))
    for name, (shape, kind) in {
        "ids": ((count,), file["ids"].dtype),
        "present": ((count, classes + 1), bool),
        "seeds": ((count, *grid), np.uint8),
        "saliency": ((count, *grid), np.float16),
        "cams": ((maps, *grid), np.float16),
        "cam_class": ((maps,), np.uint8),
        "cam_row": ((maps,), np.int32),
    }.items():
        data = file[name]
        if data.shape != shape or data.dtype != kind:
            raise ValueError(f"{name} of shape {data.shape} and type {data.dtype}")
        if data.is_virtual or data.external or not data.fletcher32 or data.compression not in (None, "gzip"):
            raise ValueError(f"{name} is not kept as this program keeps it")
        if data.size and data.id.get_num_chunks() * math.prod(data.chunks) < data.size:
            raise ValueError(f"{name} has parts that were never written")
    if len(grid) != 2 or file["ids"].dtype.kind != "S":
        raise ValueError("seeds that are no maps, or ids that are no text")


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """A seeds file to read; whatever goes wrong with a damaged one becomes an InputError."""
    try:
        with h5py.File(path) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {AGAIN}") from None
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:  # as h5py raises them
        raise InputError(f"{path}: not readable as HDF5 seeds ({' '.join(str(error).split())}); {AGAIN}") from None
