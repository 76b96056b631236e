"""The index: what stage `prepare` found out about the data, as two small CSV files that every other stage starts from.

index.csv        id,split,path,width,height,tags,sha256   one image a row; tags are class names joined by `|`
ground_truth.csv id,split,mask,sha256                     one mask a row; only `audit` and `evaluate` read this file

Paths of images are relative to the data root, those of masks to the folder in which `prepare` keeps them, with `/`.
"""

import csv
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from dsrg.data.ids import id_fault
from dsrg.data.images import ExpectedChecksum, limit_side, read_image, read_mask
from dsrg.errors import InputError, advised
from dsrg.files import opened_text, write_csv

SPLITS = ("train", "val")
INDEX_COLUMNS = ["id", "split", "path", "width", "height", "tags", "sha256"]
GROUND_TRUTH_COLUMNS = ["id", "split", "mask", "sha256"]


@dataclass(frozen=True, eq=False)
class Index:
    """N images, column by column; in memory some 400 bytes an image, and one more a class."""

    ids: list[str]
    splits: list[str]  # "train" or "val"
    paths: list[str]  # relative to `root`
    heights: np.ndarray  # int32 (N,), pixels, as the image is decoded
    widths: np.ndarray  # int32 (N,)
    present: np.ndarray  # bool (N, C+1): the tags; column 0, background, always true
    checksums: list[str]  # sha256 of the image files
    root: Path = Path()  # the data root
    max_side: int | None = None  # pixels; larger images are given scaled down to this longer side

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, row: int) -> np.ndarray:
        """The image of a row, uint8 (H, W, 3) RGB, of `max_side` at most.

        Raises InputError unless it is the file that `prepare` checked.
        """
        return limit_side(read_image(self.root / self.paths[row], expected=self.expected(row)), self.max_side)

    def expected(self, row: int) -> ExpectedChecksum:
        """The checksum of a row's image file."""
        return ExpectedChecksum(self.checksums[row], "prepare")

    def split(self, name: str) -> "Index":
        """The images of one split, "train" or "val", in the same order."""
        if name not in SPLITS:
            raise ValueError(f"no split {name!r}; there are {', '.join(SPLITS)}")
        return self.pick([row for row, own in enumerate(self.splits) if own == name])

    def pick(self, rows: Iterable[int]) -> "Index":
        """The images of the given rows, in their order."""
        rows = np.asarray(rows, dtype=np.int64)
        columns = (self.ids, self.splits, self.paths, self.checksums)
        ids, splits, paths, checksums = ([column[row] for row in rows.tolist()] for column in columns)
        sizes = self.heights[rows], self.widths[rows]
        return Index(ids, splits, paths, *sizes, self.present[rows], checksums, self.root, self.max_side)


class GroundTruth(NamedTuple):
    """One mask: its path is relative to the folder of masks."""

    id: str
    split: str
    mask: str
    checksum: str

    def labels(self, folder: Path) -> np.ndarray:
        """The label map, uint8 (H, W), in the folder of masks. Raises InputError unless it is what `prepare` kept."""
        return read_mask(folder / self.mask, expected=ExpectedChecksum(self.checksum, "prepare"))


class Masks:
    """Ground truth of some images, read when asked for: masks[row] -> uint8 (H, W), in the order of `ids`."""

    def __init__(self, truth: dict[str, GroundTruth], ids: Iterable[str], *, folder: Path) -> None:
        self.rows, self.folder = [truth[image_id] for image_id in ids], folder

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.rows[row].labels(self.folder)


def present_from_tags(tags: Iterable[Iterable[str]], classes: list[str]) -> np.ndarray:
    """Tags of N images -> bool (N, C+1), column 0 (background) true. Every tag must be one of `classes`."""
    column = {name: k for k, name in enumerate(classes, start=1)}
    rows, columns, count = array("q"), array("q"), 0
    for row, names in enumerate(tags):
        count = row + 1
        for place in (0, *(column[name] for name in names)):
            rows.append(row)
            columns.append(place)
    present = np.zeros((count, len(classes) + 1), bool)
    present[np.asarray(rows), np.asarray(columns)] = True
    return present


def write_index(path: str | Path, index: Index, classes: list[str]) -> None:
    """Write index.csv, atomically."""
    tags = ("|".join(classes[k - 1] for k in np.flatnonzero(row[1:]) + 1) for row in index.present)
    columns = (index.ids, index.splits, index.paths, index.widths, index.heights, tags, index.checksums)
    write_csv(path, INDEX_COLUMNS, zip(*columns, strict=True))


def read_index(path: str | Path, classes: list[str], root: Path = Path(), *, max_side: int | None = None) -> Index:
    """Read index.csv of the images under `root`, given scaled down to `max_side`.

    Raises InputError with every malformed line.
    """
    ids, splits, paths, checksums, tags, heights, widths = [], [], [], [], [], array("i"), array("i")
    for row in _read_csv(path, INDEX_COLUMNS, classes):
        ids.append(row["id"])
        splits.append(sys.intern(row["split"]))
        paths.append(row["path"])
        checksums.append(row["sha256"])
        tags.append(sys.intern(row["tags"]))
        heights.append(int(row["height"]))
        widths.append(int(row["width"]))
    sizes = np.array(heights, np.int32), np.array(widths, np.int32)
    return Index(ids, splits, paths, *sizes, present_from_tags(map(_tags, tags), classes), checksums, root, max_side)


def write_ground_truth(path: str | Path, rows: Iterable[GroundTruth]) -> None:
    """Write ground_truth.csv, atomically."""
    write_csv(path, GROUND_TRUTH_COLUMNS, rows)


def read_ground_truth(path: str | Path) -> dict[str, GroundTruth]:
    """Read ground_truth.csv -> its rows by image id. Raises InputError with every malformed line."""
    return {row["id"]: GroundTruth(*row.values()) for row in _read_csv(path, GROUND_TRUTH_COLUMNS)}


def _tags(text: str) -> list[str]:
    return text.split("|") if text else []


def _read_csv(path: str | Path, columns: list[str], classes: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Sound rows of a file that `write_csv` wrote. Raises InputError after the last one, with every malformed line."""
    faults, seen = [], set()
    try:
        with advised("run the stage `prepare` first"), opened_text(path) as file:
            lines = csv.reader(file, strict=True)
            if (header := next(lines, [])) != columns:
                faults.append(f"line 1: expected {','.join(columns)}, found {','.join(header)!r}")
                lines = ()
            for cells in lines:
                if len(cells) != len(columns):
                    faults.append(f"line {lines.line_num}: expected {len(columns)} columns, found {len(cells)}")
                    continue
                row = dict(zip(columns, cells, strict=True))
                own = [*_faults(row, classes)]
                if row["id"] in seen:
                    own.append(f"id {row['id']!r} is already in use")
                seen.add(row["id"])
                faults += [f"line {lines.line_num}: {fault}" for fault in own]
                if not own:
                    yield row
    except csv.Error as error:
        faults.append(f"line {lines.line_num}: {error}")
    if faults:
        raise InputError(f"{path}: {fault}; run the stage `prepare` again" for fault in faults)


def _faults(row: dict[str, str], classes: Sequence[str]) -> Iterator[str]:
    """What is wrong with a row of either file."""
    if fault := id_fault(row["id"]):
        yield fault
    if row["split"] not in SPLITS:
        yield f"split {row['split']!r} is none of {', '.join(SPLITS)}"
    if not re.fullmatch("[0-9a-f]{64}", row["sha256"]):
        yield f"sha256 {row['sha256']!r} is no checksum"
    path = row.get("path", row.get("mask"))
    if not path or path.startswith("/") or ".." in PurePosixPath(path).parts:
        yield f"path {path!r} does not lie under the data root"
    for name in ("width", "height"):
        if not re.fullmatch("[1-9][0-9]{0,8}", row.get(name, "1")):
            yield f"{name} {row[name]!r} is no size in pixels"
    for tag in _tags(row.get("tags", "")):
        if tag not in classes:
            yield f"tag {tag!r} is no class"
