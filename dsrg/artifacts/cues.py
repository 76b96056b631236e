"""The authors' seeds: localization cues as SEC and DSRG released them, read into seeds and written from them.

CUES.pickle     a pickle of Python 2: one dict with two NumPy arrays an image, by the image's number
                    "%i_labels"  int64 (n,)    the image's classes, 1..C; background goes without saying
                    "%i_cues"    int64 (3, K)  class 0..C, row and column of every labeled cell of the grid (41x41)
input_list.txt  "ID.jpg NUMBER" a line; numbers follow no order of names, so cues mean nothing without their list

As read by `AnnotationLayer` in pylayers.py of the released code.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsrg.artifacts.safe_pickle import read_pickle
from dsrg.artifacts.seeds_h5 import SeedRow, Seeds
from dsrg.data.ids import normal
from dsrg.data.index import Index
from dsrg.errors import InputError, few
from dsrg.files import atomic_file, read_text, write_text
from dsrg.method.grid import UNLABELED, pixels_of

CONFLICTS = ("highest", "unlabeled")


@dataclass(frozen=True, eq=False)
class Cues:
    """Seeds of N images that come from a file of cues, in the order of an index.

    present: bool (N, C+1), the classes that the file lists; column 0, background, always true.
    seeds: uint8 (N, h, w) label maps.
    claims: bool (N, C+1), the classes that have cues.
    contested: int64 (N,), the number of cells with cues of several classes.
    left_out: number of images that the file has cues of and the index does not learn from.
    """

    ids: list[str]
    present: NDArray[np.bool_]
    seeds: NDArray[np.uint8]
    claims: NDArray[np.bool_]
    contested: NDArray[np.int64]
    conflict: str
    left_out: int

    def rows(self) -> Iterator[SeedRow]:
        """The rows of a seeds file, without saliency and activation maps: cues do not tell what they were made from."""
        grid = self.seeds.shape[1:]
        unknown, none = np.full(grid, np.nan, np.float16), np.empty((0, *grid), np.float16)
        for image_id, present, seeds in zip(self.ids, self.present, self.seeds, strict=True):
            yield SeedRow(image_id, present, seeds, unknown, none, np.empty(0, np.uint8))

    def resampled(self, grid: int) -> "Cues":
        """The seeds of a grid with so many cells along a side: each cell takes the nearest one, corners on corners."""
        cells = np.rint(np.linspace(0, self.seeds.shape[1] - 1, grid)).astype(np.int64)
        return replace(self, seeds=self.seeds[:, cells[:, None], cells])

    def remarks(self, index: Index, classes: list[str]) -> list[str]:
        """Lines for people: what the seeds amount to, and where file and index do not say the same.

        index: the one that the cues were read with.
        """
        names = ["background", *classes]
        labeled, background = (self.seeds != UNLABELED).mean(), (self.seeds == 0).mean()
        count = len(self.ids)
        lines = [f"{count} images, {labeled:.1%} of the cells labeled, {background:.1%} background"]
        if self.left_out:
            lines.append(f"cues of {self.left_out} more images are left out: the index does not learn from them")
        if self.contested.any():
            kept = "they stay unlabeled" if self.conflict == "unlabeled" else "the class with the highest number wins"
            where = f"{self.contested.sum()}, in {np.count_nonzero(self.contested)} of {count} images"
            lines.append(f"cells with cues of several classes: {where}; {kept}")
        for what, differs in {
            "tags of the index that the cues' labels lack": index.present & ~self.present,
            "labels that are no tags in the index": self.present & ~index.present,
            "labels without a cue": self.present & ~self.claims & (np.arange(len(names)) > 0),
            "cues of classes that are not among their labels": self.claims & ~self.present,
        }.items():
            if differs.any():
                rows = np.flatnonzero(differs.any(axis=1))
                example = ", ".join(names[number] for number in np.flatnonzero(differs[rows[0]]))
                lines.append(f"{what}: in {len(rows)} of {count} images, such as {self.ids[rows[0]]}: {example}")
        return lines


def read_cues(path: Path, list_path: Path, index: Index, *, grid: int, classes: list[str], conflict: str) -> Cues:
    """Read the cues of every image of an index; nothing that the pickle names is run (`safe_pickle`).

    The file's labels become the images' tags, whatever the index says. A cell with cues of several classes goes to the
    highest of them, as in the growth of the released code ("highest"; its loss sees them all), or to none
    ("unlabeled").

    path: CUES.pickle, gzip'ed or not. list_path: input_list.txt; it must name every image of the index, in any order,
    and may name more. grid: cells along a side; a cue beyond is an error.

    Raises InputError with all that is wrong: lines, ids, missing and surplus entries, shapes, types and ranges; and
    ValueError for any other `conflict`.
    """
    if conflict not in CONFLICTS:
        raise ValueError(f"conflict: expected highest or unlabeled, not {conflict!r}")
    listed, line_problems = _read_list(list_path)
    entries = read_pickle(path)
    limits = {"classes": len(classes), "grid": grid}
    if problems := [*line_problems, *_entry_problems(listed, entries, index, (path, list_path), **limits)]:
        raise InputError(problems)

    number = {image.id: image.number for image in listed}
    count = len(index)
    present, claims = (np.zeros((count, len(classes) + 1), bool) for _ in range(2))
    present[:, 0] = True
    seeds, contested = np.empty((count, grid, grid), np.uint8), np.zeros(count, np.int64)
    for row, image_id in enumerate(index.ids):
        labels, cues = (entries[f"{number[image_id]}_{kind}"] for kind in ("labels", "cues"))
        present[row, labels] = True
        claims[row, cues[0]] = True
        seeds[row], contested[row] = label_map(cues, grid=grid, conflict=conflict)
    return Cues(list(index.ids), present, seeds, claims, contested, conflict, len(listed) - count)


def label_map(cues: NDArray[np.integer], *, grid: int, conflict: str) -> tuple[NDArray[np.uint8], int]:
    """Cues (3, K) of one image, class, row and column -> label map uint8 (grid, grid), number of contested cells.

    >>> label_map(np.array([[0, 1, 2], [0, 1, 1], [0, 1, 1]]), grid=2, conflict="highest")[0].tolist()
    [[0, 255], [255, 2]]
    """
    numbers, rows, columns = cues.astype(np.int64)
    cells = rows * grid + columns
    lowest, highest = np.full(grid * grid, UNLABELED), np.full(grid * grid, -1)
    np.minimum.at(lowest, cells, numbers)
    np.maximum.at(highest, cells, numbers)
    contested = lowest < highest
    empty = (highest < 0) | (contested & (conflict == "unlabeled"))
    labels = np.where(empty, UNLABELED, highest).astype(np.uint8)
    return labels.reshape(grid, grid), int(contested.sum())


def write_cues(path: Path, list_path: Path, seeds: Seeds) -> None:
    """Write seeds as cues and the list that goes with them, each file atomically.

    Protocol 2 with byte strings, as Python 2 writes it; reading it takes Python 2, or Python 3 with encoding="latin1".
    Images are numbered in the order of the seeds file. The same seeds give the same bytes.
    """
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        file.write(b"\x80\x02}")
        for number, (present, labels) in enumerate(zip(seeds.present, seeds.seeds, strict=True)):
            rows, columns = np.nonzero(labels != UNLABELED)
            numbers = labels[rows, columns]
            order = np.argsort(numbers, kind="stable")
            _store(file, f"{number}_labels", np.flatnonzero(present[1:]) + 1)
            _store(file, f"{number}_cues", np.stack([numbers, rows, columns])[:, order])
        file.write(b".")
    write_text(list_path, "".join(f"{image_id}.jpg {number}\n" for number, image_id in enumerate(seeds.ids)))


# A NumPy array in a pickle: make an empty one, then give it version, shape, type, order and bytes. Written out here,
# because today's NumPy names itself in a way that the NumPy of Python 2 does not know.
_EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
_INT64 = b"cnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"


def _store(file: BinaryIO, key: str, values: NDArray[np.integer]) -> None:
    """Write the instructions that put an array, as int64, into the dict on top of the stack."""
    raw = values.astype("<i8").tobytes()
    shape = b"".join(b"J" + struct.pack("<i", length) for length in values.shape)
    file.write(b"U" + bytes([len(key)]) + key.encode() + _EMPTY + b"(K\x01(" + shape + b"t" + _INT64 + b"\x89")
    file.write(b"T" + struct.pack("<i", len(raw)) + raw + b"tbs")


class _Listed(NamedTuple):
    id: str
    number: int
    line: int


def _read_list(path: Path) -> tuple[list[_Listed], list[str]]:
    """Lines of an input_list.txt and what is wrong with them; a folder before a name and its ending are dropped."""
    listed, problems = [], []
    ids: dict[str, int] = {}
    numbers: dict[int, int] = {}
    for line, text in enumerate(map(str.strip, read_text(path).split("\n")), start=1):
        if not text:
            continue
        parts = re.fullmatch(r"(.*\S)\s+([0-9]{1,9})", text)
        if parts is None:
            problems.append(f"{path}:{line}: expected `ID.jpg NUMBER`, found {text[:80]!r}")
            continue
        image = _Listed(normal(PurePosixPath(parts[1]).stem), int(parts[2]), line)
        if ids.setdefault(image.id, line) != line:
            problems.append(f"{path}:{line}: id {image.id!r} is on line {ids[image.id]} already; remove one")
        if numbers.setdefault(image.number, line) != line:
            problems.append(f"{path}:{line}: number {image.number} is on line {numbers[image.number]} already; fix one")
        listed.append(image)
    if not listed and not problems:
        problems.append(f"{path}: an empty list; expected `ID.jpg NUMBER` a line")
    return listed, problems


def _entry_problems(
    listed: list[_Listed], entries: dict[str, object], index: Index, files: tuple[Path, Path], **limits: int
) -> Iterator[str]:
    """Where list, index and pickle do not fit together, then what is wrong with the index's entries. files: of both."""
    path, list_path = files
    wanted = {f"{image.number}_{kind}": (image, kind) for image in listed for kind in ("labels", "cues")}
    named, known = {image.id for image in listed}, set(index.ids)
    for image_id in (image_id for image_id in index.ids if image_id not in named):
        remedy = "data.train may only name images that have cues"
        yield f"{list_path}: no line for the training image {image_id!r}; {remedy}"
    remedy = "take the list that the cues were made with"
    for key in (key for key in wanted if key not in entries):
        yield f"{path}: no entry {key!r} for {list_path}:{wanted[key][0].line}; {remedy}"
    for key in (key for key in entries if key not in wanted):
        yield f"{path}: entry {key[:80]!r} belongs to no line of {list_path}; {remedy}"
    for key, (image, kind) in wanted.items():
        if image.id in known and key in entries:
            yield from (f"{path}: {key} ({image.id}): {fault}" for fault in _faults(entries[key], kind, **limits))


def _faults(values: object, kind: str, *, classes: int, grid: int) -> Iterator[str]:
    """What is wrong with an image's labels, whole numbers (n,), or with its cues, (3, K): shape, type or range."""
    if kind == "labels":  # of each row: its name, lowest and highest value, and these in words
        limits = [("class", 1, classes, f"1 to {classes}, the lines of classes.txt, without background")]
    else:
        cells = (
            f"0 to {grid - 1}, the grid of {pixels_of(grid)} pixels (seeds.cues_size, or data.size where that is null; "
            "the authors' 41 rows and columns are the grid of 321 pixels)"
        )
        limits = [("class", 0, classes, f"0 to {classes}, background and the lines of classes.txt")]
        limits += [("row", 0, grid - 1, cells), ("column", 0, grid - 1, cells)]
    ndim, shape = (1, "(n,)") if kind == "labels" else (2, "(3, K)")
    if not isinstance(values, np.ndarray):
        yield f"expected whole numbers of shape {shape}, found no array but {type(values).__name__}"
    elif values.dtype.kind not in "iu" or values.ndim != ndim or len(np.atleast_2d(values)) != len(limits):
        yield f"expected whole numbers of shape {shape}, found {values.dtype} of shape {values.shape}"
    else:
        for row, (name, low, high, expected) in zip(np.atleast_2d(values), limits, strict=True):
            if (wrong := np.unique(row[(row < low) | (row > high)])).size:
                yield f"{name} {few(wrong, 3)}; expected {expected}"
