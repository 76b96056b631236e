"""data/seeds.h5: seeds, saliency and activation maps of every training image, one row an image.

    ids       (N,) utf-8, padded        seeds     (N, h, w) uint8 label map, 255 = unlabeled
    present   (N, C+1) bool             saliency  (N, h, w) float16, 0..1; NaN = seeds came without any
    cams      (K, h, w) float16, 0..1   only the tagged classes of each image, K rows in all
    cam_class (K,) uint8, 1..C          cam_row   (K,) int32, the image's row, ascending

Chunked an image at a time, gzip + shuffle + fletcher32. Attributes: format, version, classes, grid_stride, params
(JSON) and, written last, complete = 1.

The first 512 bytes, which HDF5 leaves to its users, hold a line with the sha256 of all that follows. It is checked
before HDF5 sees the file: flipped bits can not only change what it reads, but crash it.
"""

import hashlib
import io
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from dsrg.data.index import Index
from dsrg.errors import InputError, advised, few, one_line
from dsrg.files import atomic_file
from dsrg.method.grid import UNLABELED

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
    """Write `count` rows into a seeds file, atomically; the same rows give the same bytes.

    The file grows on the disk; in memory an image takes what `present` does and some 100 bytes.
    """
    guess = 4 * count * grid * grid  # bytes, of saliency and one activation map an image: noise, which gzip leaves
    chunked = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}
    with atomic_file(path, size=guess) as temporary, _Unfailing(temporary) as disk:
        with h5py.File(disk, "w", userblock_size=HEAD) as file:

            def dataset(name: str, shape: tuple[int, ...], dtype: object, **options: object) -> h5py.Dataset:
                return file.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]), **chunked, **options)

            seeds = dataset("seeds", (count, grid, grid), np.uint8)
            saliency = dataset("saliency", (count, grid, grid), np.float16)
            cams = dataset("cams", (0, grid, grid), np.float16, maxshape=(None, grid, grid))
            ids, cam_class, cam_row = [], array("B"), array("i")
            present = np.zeros((count, len(classes) + 1), bool)
            number = 0
            for number, row in enumerate(rows, 1):
                if number <= count:
                    seeds[number - 1], saliency[number - 1], present[number - 1] = row.seeds, row.saliency, row.present
                if len(row.cams):
                    cams.resize(len(cam_class) + len(row.cams), axis=0)
                    cams[len(cam_class) :] = row.cams
                ids.append(row.image_id)
                cam_class.extend(row.cam_class.tolist())
                cam_row.extend([number - 1] * len(row.cams))
                disk.complain()
            if number != count:
                raise ValueError(f"expected {count} rows, got {number}")
            width = max((len(image_id.encode()) for image_id in ids), default=1)
            for name, column in {
                "ids": np.fromiter((image_id.encode() for image_id in ids), h5py.string_dtype(length=width), count),
                "present": present,
                "cam_class": np.array(cam_class, np.uint8),
                "cam_row": np.array(cam_row, np.int32),
            }.items():
                file.create_dataset(name, data=column, chunks=True, fletcher32=True)
            file.attrs.update(format=FORMAT, version=VERSION, classes=classes, grid_stride=GRID_STRIDE, params=params)
            file.attrs["complete"] = 1
        disk.complain()
        disk.seek(HEAD)
        head = _head(hashlib.file_digest(disk, "sha256").hexdigest())
        disk.seek(0)
        disk.write(head)
        disk.complain()


class _Unfailing(io.FileIO):
    """A file that HDF5 can always close: after a write that the disk refused it takes everything and keeps nothing.

    HDF5 can crash where a write fails.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r+")
        self.refusal: OSError | None = None

    def write(self, data: bytes) -> int:
        rest = memoryview(data).cast("B")
        while rest and self.refusal is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.refusal = error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.refusal = self.refusal or error
            return self.tell() if size is None else size

    def complain(self) -> None:
        """Raises the OSError of the first write that was refused, if one was."""
        if self.refusal is not None:
            raise self.refusal


def sealed(content: bytes) -> bytes:
    """The bytes of a seeds file around those of HDF5."""
    return _head(hashlib.sha256(content).hexdigest()) + content


def _head(checksum: str) -> bytes:
    return (SEAL + checksum.encode() + b"\n").ljust(HEAD, b"\0")


@dataclass(frozen=True)
class Seeds:
    """A seeds file, of which ids (N,) and tags, present bool (N, C+1), are in memory.

    It stays open, so that what is read later is of the same file, should another have taken its place.
    """

    path: Path
    ids: list[str]
    present: NDArray[np.bool_]
    file: h5py.File = field(repr=False)

    @cached_property
    def seeds(self) -> NDArray[np.uint8]:
        """All seeds in memory, uint8 (N, h, w)."""
        return np.asarray(self.in_order(self.ids))

    def in_order(self, ids: Sequence[str]) -> "StoredSeeds":
        """Seeds in the order of `ids`. Raises InputError for ids without seeds."""
        return StoredSeeds(self, self._rows(ids))

    def tags_in_order(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Tags in the order of `ids`, bool (K, C+1): the index's, but for seeds imported with tags of their own."""
        return self.present[self._rows(ids)]

    def with_tags(self, index: Index) -> Index:
        """The index with the tags that points or imported seeds have beyond its own."""
        return replace(index, present=index.present | self.tags_in_order(index.ids))

    def _rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        if missing := [image_id for image_id in ids if image_id not in self._row]:
            raise InputError(f"{self.path}: no seeds for {few(missing, 10)}; {AGAIN}")
        return np.fromiter((self._row[image_id] for image_id in ids), np.int64, len(ids))

    @cached_property
    def _row(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.ids)}

    def maps(self, image_id: str) -> tuple[NDArray[np.float32] | None, dict[int, NDArray[np.float32]]]:
        """One image's saliency (h, w), if known, and its activation maps by class, each (h, w).

        Raises InputError as above.
        """
        (row,) = self._rows([image_id])
        with _readable(self.path):
            own = slice(*np.searchsorted(self._cam_rows, [row, row + 1]))
            classes, cams = self.file["cam_class"][own].tolist(), self.file["cams"][own].astype(np.float32)
            saliency = self.file["saliency"][row].astype(np.float32)
            return None if np.isnan(saliency).all() else saliency, dict(zip(classes, cams, strict=True))

    @cached_property
    def _cam_rows(self) -> NDArray[np.int32]:
        return self.file["cam_row"][:]


class StoredSeeds:
    """Seeds of the given rows, read when asked for: found[k] -> uint8 (h, w); np.asarray reads all of them.

    Raises InputError for a file that has become unreadable.
    """

    def __init__(self, seeds: Seeds, rows: NDArray[np.int64]) -> None:
        self.path, self.rows, self._maps = seeds.path, rows, seeds.file["seeds"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> NDArray[np.uint8]:
        row = self.rows[place]
        with _readable(self.path):
            return self._maps[row]

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NDArray[np.uint8]:
        return np.array([*self], dtype or np.uint8).reshape(len(self), *self._maps.shape[1:])


def read_seeds(path: Path, *, classes: list[str], grid: int | None = None) -> Seeds:
    """Open a seeds file. Raises InputError when it is incomplete, damaged, of another version, classes or grid."""
    with _readable(path), ExitStack() as refused:
        _refuse_damaged(path)
        file = refused.enter_context(h5py.File(path))
        attributes = dict(file.attrs)
        if attributes.get("format") != FORMAT or attributes.get("version") != VERSION:
            raise InputError(f"{path}: not a seeds file of version {VERSION}")
        if attributes.get("complete") != 1:
            raise InputError(f"{path}: incomplete")
        theirs = [str(name) for name in attributes["classes"]]
        if theirs != classes:
            raise InputError(f"{path}: made for the classes {', '.join(theirs)}")
        _refuse_odd(file, classes=len(classes))
        if grid is not None and file["seeds"].shape[1:] != (grid, grid):
            raise InputError(f"{path}: seeds of {file['seeds'].shape[1:]} cells, data.size needs {(grid, grid)}")
        ids = [name.decode() for name in chain.from_iterable(_blocks(file["ids"]))]
        odd = any(((seeds > len(classes)) & (seeds != UNLABELED)).any() for seeds in _blocks(file["seeds"]))
        if len({*ids}) < len(ids) or odd:
            raise ValueError("an id twice, or a label that is no class")
        seeds = Seeds(path, ids, file["present"][:], file)
        refused.pop_all()
        return seeds


def _blocks(data: h5py.Dataset, rows: int = 4096) -> Iterator[NDArray]:
    return (data[start : start + rows] for start in range(0, len(data), rows))


def _refuse_damaged(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if not head.startswith(SEAL):
        raise InputError(f"{path}: not a seeds file of version {VERSION}")
    if head.removeprefix(SEAL).rstrip(b"\0") != f"{found}\n".encode():
        raise InputError(f"{path}: damaged or cut off (its content is not of the sha256 in its first line)")


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
def _readable(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a damaged seeds file becomes an InputError that says what to do."""
    with advised(AGAIN):
        try:
            yield
        except (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:  # h5py's
            raise InputError(f"{path}: not readable as HDF5 seeds ({one_line(error)})") from None
