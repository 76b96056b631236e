"""The table of points as the page shows and changes it: read again whenever it has changed, written at once."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.data.index import Index
from dsrg.errors import InputError
from dsrg.files import require_writable
from dsrg.method.grid import UNLABELED
from dsrg.method.points import Mark, mark_cells
from dsrg.runtime.lock import try_lock
from dsrg.sources.points import (
    BACKGROUND,
    DIGITS,
    ERASE,
    PointReader,
    PointRow,
    Points,
    place_text,
    read_point_rows,
    write_point_rows,
)

PATIENCE = 10.0  # seconds to wait for another writer of the table


class Editor:
    """Points of one project's images.

    Args:
        path: the table, or None where params `data.points` is null.
        tags, unknown: see `read_points`.
    """

    def __init__(self, path: Path | None, index: Index, classes: list[str], *, tags: str, unknown: str) -> None:
        self.path = path and path.resolve()  # a link stays one
        self.index, self.reader = index, PointReader(index, classes, tags=tags, unknown=unknown)
        self.names = {UNLABELED: ERASE} | dict(enumerate([BACKGROUND, *classes]))
        self._known: tuple[object, list[PointRow], Points] = (None, [], Points())
        self._lock = threading.RLock()

    def points(self) -> Points:
        """What the table says now; nothing where it is no sound table of points, see `problem`."""
        return Points() if self.problem() else self._read()[1]

    def problem(self) -> str | None:
        """What is wrong with the table, if anything."""
        try:
            self._read()
        except InputError as error:
            return str(error)
        return None

    def _read(self) -> tuple[list[PointRow], Points]:
        with self._lock:
            if self.path is None or not self.path.is_file():
                return [], Points()
            if (state := self._state()) != self._known[0]:
                rows = read_point_rows(self.path)
                self._known = state, rows, self.reader.read(rows)
            return self._known[1:]

    def _state(self) -> tuple[int, ...]:
        status = self.path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def why_not(self) -> str | None:
        """Why nothing can be written, None if it can."""
        if self.path is None:
            return "data.points is null; set it to data/points.csv in params.yaml"
        if self.path.suffix.lower() in (".json", ".jsonl"):
            return f"{self.path}: points are written as CSV; set data.points to a table of that format"
        try:
            require_writable(self.path.parent)
        except InputError as error:
            return str(error)
        if self.path.exists() and not os.access(self.path, os.W_OK):
            return f"{self.path}: you may not write there; change its permissions"
        return self.problem()

    def cells(self, image_id: str, *, grid: int) -> NDArray[np.int16] | None:
        """What an image's marks say of each cell of the grid, see `mark_cells`; None without marks."""
        if not (marks := self.points().marks.get(image_id)):
            return None
        row = self.reader.row[image_id]
        size = {"height": int(self.index.heights[row]), "width": int(self.index.widths[row])}
        return mark_cells(marks, **size, grid=grid, classes=len(self.names) - 2)[0]

    def added(self, image_id: str) -> list[int]:
        """Classes that an image's marks add to its tags."""
        return sorted(self.points().added.get(image_id, ()))

    def marks(self, image_id: str) -> list[dict]:
        """An image's marks, oldest first: {class, radius, path}."""
        return [self._described(mark) for mark in self.points().marks.get(image_id, [])]

    def _described(self, mark: Mark) -> dict:
        return {"class": self.names[mark.label], "radius": mark.radius, "path": mark.path.tolist()}

    def change(self, image_id: str, *, add: Sequence[dict], remove: Sequence[dict]) -> None:
        """Write new marks and take some away. What others wrote meanwhile stays.

        A mark that is not there any more cannot be taken away, which is no error. Raises InputError for marks that
        `read_points` would refuse, and where the table cannot be written.
        """
        with self._writing() as (rows, points):
            own = points.rows.get(image_id, [])
            fresh = self._rows_for(image_id, add, own)
            gone = {id(row) for row in self._rows_of(image_id, remove, points)}
            rows = [*(row for row in rows if id(row) not in gone), *fresh]
            left = [row for one in own for row in one if id(row) not in gone]
            now = self.reader.read([*left, *fresh])  # of this image alone: a table may be long
            write_point_rows(self.path, rows)
            tables = ((getattr(points, name), getattr(now, name)) for name in ("marks", "rows", "added"))
            merged = [{key: value for key, value in old.items() if key != image_id} | new for old, new in tables]
            self._known = self._state(), rows, Points(*merged, points.warnings)

    def extend(self, rows: Sequence[PointRow]) -> tuple[Points, int]:
        """Write rows with new marks -> those that were added, and how many others there were already.

        Strokes are given numbers of their own. Raises InputError as `change` does.
        """
        new = self.reader.read(rows)
        with self._writing() as (before, points):
            there = {(image_id, _key(mark)) for image_id, own in points.marks.items() for mark in own}
            fresh, known = [], 0
            for image_id, own in new.marks.items():
                unlike = {_key(mark): self._described(mark) for mark in own}
                added = [mark for key, mark in unlike.items() if (image_id, key) not in there]
                fresh += self._rows_for(image_id, added, points.rows.get(image_id, []))
                known += len(own) - len(added)
            write_point_rows(self.path, [*before, *fresh])
        return replace(self.reader.read(fresh), warnings=new.warnings), known

    @contextmanager
    def _writing(self) -> Iterator[tuple[list[PointRow], Points]]:
        """What the table says, while nobody else writes it. Raises InputError where it cannot be written."""
        if why := self.why_not():
            raise InputError(why)
        with self._lock:
            if (lock := try_lock(self.path.with_name(f".{self.path.name}.lock"), patience=PATIENCE)) is None:
                raise InputError(f"{self.path}: another process is writing it; try again")
            try:
                yield self._read()
            finally:
                lock.release()

    def _rows_of(self, image_id: str, remove: Sequence[dict], points: Points) -> list[PointRow]:
        """The rows of marks; of marks that are alike, the newest first."""
        there = [*zip(points.marks.get(image_id, []), points.rows.get(image_id, []), strict=True)]
        gone = []
        for mark in remove:
            for place in reversed(range(len(there))):
                if self._described(there[place][0]) == mark:
                    gone += there.pop(place)[1]
                    break
        return gone

    def _rows_for(self, image_id: str, marks: Sequence[dict], own: list[list[PointRow]]) -> list[PointRow]:
        """Rows of new marks; strokes get numbers that none of the image's `own` has."""
        image, rows = self.index.paths[self.reader.row[image_id]], []
        free = 1 + max((int(one[0].stroke or 0) for one in own), default=0)
        for number, mark in enumerate(marks, free):
            radius = place_text(mark["radius"]) if mark["radius"] else ""
            stroke = str(number) if len(mark["path"]) > 1 else ""
            rows += [
                PointRow(image_id, image, place_text(x), place_text(y), mark["class"], radius, stroke)
                for x, y in mark["path"]
            ]
        return rows


def _key(mark: Mark) -> tuple[int, float, bytes]:
    """The same for marks that are alike in the table."""
    return mark.label, round(mark.radius, DIGITS), mark.path.round(DIGITS).tobytes()
