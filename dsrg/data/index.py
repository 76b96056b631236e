"""The index: what stage `prepare` found out about the data, as two small CSV files that every other stage starts from.

index.csv        id,split,path,width,height,tags,sha256   one image a row; tags are class names joined by `|`
ground_truth.csv id,split,mask,sha256                     one mask a row; only `audit` and `evaluate` read this file

Paths of images are relative to the data root, those of masks to the folder in which `prepare` keeps them, with `/`.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from dsrg.data.ids import id_fault
from dsrg.data.images import Noted, read_image, read_mask
from dsrg.errors import InputError
from dsrg.files import read_text, write_text

SPLITS = ("train", "val")
INDEX_COLUMNS = ["id", "split", "path", "width", "height", "tags", "sha256"]
GROUND_TRUTH_COLUMNS = ["id", "split", "mask", "sha256"]


@dataclass(frozen=True, eq=False)
class Index:
    """N images, column by column."""

    ids: list[str]
    splits: list[str]  # "train" or "val"
    paths: list[str]  # relative to the data root
    heights: np.ndarray  # int32 (N,), pixels, as the image is decoded
    widths: np.ndarray  # int32 (N,)
    present: np.ndarray  # bool (N, C+1): the tags; column 0, background, always true
    checksums: list[str]  # sha256 of the image files

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, row: int, *, root: Path) -> np.ndarray:
        """The image of a row, uint8 (H, W, 3) RGB. Raises InputError unless it is the file that `prepare` checked."""
        return read_image(root / self.paths[row], noted=self.noted(row))

    def noted(self, row: int) -> Noted:
        """The checksum of a row's image file."""
        return Noted(self.checksums[row], "prepare")

    def split(self, name: str) -> "Index":
        """The images of one split, "train" or "val", in the same order."""
        if name not in SPLITS:
            raise ValueError(f"no split {name!r}; there are {', '.join(SPLITS)}")
        return self.pick(np.flatnonzero(np.array(self.splits, dtype=str) == name))

    def pick(self, rows: Iterable[int]) -> "Index":
        """The images of the given rows, in their order."""
        rows = np.asarray(rows, dtype=np.int64)
        lists = ([column[row] for row in rows] for column in (self.ids, self.splits, self.paths, self.checksums))
        ids, splits, paths, checksums = lists
        return Index(ids, splits, paths, self.heights[rows], self.widths[rows], self.present[rows], checksums)


class GroundTruth(NamedTuple):
    """One mask: its path is relative to the folder of masks."""

    id: str
    split: str
    mask: str
    checksum: str

    def labels(self, folder: Path) -> np.ndarray:
        """The label map, uint8 (H, W), in the folder of masks. Raises InputError unless it is what `prepare` kept."""
        return read_mask(folder / self.mask, noted=Noted(self.checksum, "prepare"))


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
    tags = list(tags)
    column = {name: k for k, name in enumerate(classes, start=1)}
    present = np.zeros((len(tags), len(classes) + 1), bool)
    present[:, 0] = True
    for row, names in zip(present, tags, strict=True):
        row[[column[name] for name in names]] = True
    return present


def write_index(path: str | Path, index: Index, classes: list[str]) -> None:
    """Write index.csv, whole or not at all."""
    tags = ["|".join(classes[k - 1] for k in np.flatnonzero(row[1:]) + 1) for row in index.present]
    columns = (index.ids, index.splits, index.paths, index.widths, index.heights, tags, index.checksums)
    _write_csv(path, INDEX_COLUMNS, zip(*columns, strict=True))


def read_index(path: str | Path, classes: list[str]) -> Index:
    """Read index.csv. Raises InputError with every malformed line."""
    rows = _read_csv(path, INDEX_COLUMNS, lambda row: _index_faults(row, classes))
    columns = {name: [row[name] for row in rows] for name in INDEX_COLUMNS}
    return Index(
        ids=columns["id"],
        splits=columns["split"],
        paths=columns["path"],
        heights=np.array(columns["height"], np.int32),
        widths=np.array(columns["width"], np.int32),
        present=present_from_tags(map(_tags, columns["tags"]), classes),
        checksums=columns["sha256"],
    )


def write_ground_truth(path: str | Path, rows: Iterable[GroundTruth]) -> None:
    """Write ground_truth.csv, whole or not at all."""
    _write_csv(path, GROUND_TRUTH_COLUMNS, rows)


def read_ground_truth(path: str | Path) -> dict[str, GroundTruth]:
    """Read ground_truth.csv -> its rows by image id. Raises InputError with every malformed line."""
    rows = _read_csv(path, GROUND_TRUTH_COLUMNS, lambda row: _path_faults(row["mask"]))
    return {row["id"]: GroundTruth(*row.values()) for row in rows}


def _tags(text: str) -> list[str]:
    return text.split("|") if text else []


def _index_faults(row: dict[str, str], classes: list[str]) -> Iterable[str]:
    yield from _path_faults(row["path"])
    for name in ("width", "height"):
        if not re.fullmatch("[1-9][0-9]{0,8}", row[name]):
            yield f"{name} {row[name]!r} is no size in pixels"
    for tag in _tags(row["tags"]):
        if tag not in classes:
            yield f"tag {tag!r} is no class"


def _path_faults(path: str) -> Iterable[str]:
    if not path or path.startswith("/") or ".." in PurePosixPath(path).parts:
        yield f"path {path!r} does not lie under the data root"


def _write_csv(path: str | Path, columns: list[str], rows: Iterable[Iterable]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _read_csv(path: str | Path, columns: list[str], faults_of: Callable) -> list[dict[str, str]]:
    """Rows of a file that `_write_csv` wrote, checked by what both files have in common and by `faults_of` a row."""
    try:
        text = read_text(path)
    except InputError as error:
        raise InputError(f"{problem}; run the stage `prepare` first" for problem in error.problems) from None
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: dict[str, dict[str, str]] = {}
    faults = []
    try:
        if (header := next(lines, [])) != columns:
            faults.append(f"line 1: expected {','.join(columns)}, found {','.join(header)!r}")
        for cells in [] if faults else lines:
            if len(cells) != len(columns):
                faults.append(f"line {lines.line_num}: expected {len(columns)} columns, found {len(cells)}")
                continue
            row = dict(zip(columns, cells, strict=True))
            found = list(faults_of(row))
            if fault := id_fault(row["id"]):
                found.append(fault)
            if row["id"] in rows:
                found.append(f"id {row['id']!r} is already in use")
            if row["split"] not in SPLITS:
                found.append(f"split {row['split']!r} is none of {', '.join(SPLITS)}")
            if not re.fullmatch("[0-9a-f]{64}", row["sha256"]):
                found.append(f"sha256 {row['sha256']!r} is no checksum")
            faults += [f"line {lines.line_num}: {fault}" for fault in found]
            rows[row["id"]] = row
    except csv.Error as error:
        faults.append(f"line {lines.line_num}: {error}")
    if faults:
        raise InputError(f"{path}: {fault}; run the stage `prepare` again" for fault in faults)
    return list(rows.values())
