"""Points and strokes beside tags: a table that people write, or that `dsrg inspect --edit` writes for them.

    image,x,y,class,radius,stroke
    dogs/rex.jpg,120,85,dog,,           a point: the cell of the seed grid under it
    dogs/rex.jpg,12,200,background,10,  ... and all cells whose pixels are at most 10 pixels away
    dogs/rex.jpg,60,60,erase,20,        takes the made seeds within 20 pixels away
    dogs/rex.jpg,30,40,dog,3,1          a stroke: the rows of one image with the same number, joined in their order
    dogs/rex.jpg,50,45,dog,3,1

Places are in pixels of the image as one sees it (turned by its EXIF orientation), from its upper left corner. An image
goes by its id, or by as much of its path's end as no other image shares, as in a table of tags. `radius` and `stroke`
may be missing; other columns are ignored. Columns are separated by comma, semicolon or tab; JSON Lines are read too.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsrg.data.ids import normal
from dsrg.data.index import Index
from dsrg.errors import InputError, nearest
from dsrg.files import write_csv
from dsrg.method.grid import UNLABELED
from dsrg.method.points import Mark
from dsrg.sources.folder import Names
from dsrg.sources.table import read_cells
from dsrg.sources.validation import warn_of

BACKGROUND, ERASE = "background", "erase"  # what a row may name besides a class
COLUMNS = ("image", "x", "y", "class", "radius", "stroke")
REQUIRED = COLUMNS[:4]
ROWS_MAX = 2_000_000  # a table is read at once
DIGITS = 1  # of a place in pixels, after the point: finer than any hand
NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"


class PointRow(NamedTuple):
    """A row as it stands in the table, all of it text."""

    where: str  # file:line
    image: str
    x: str
    y: str
    name: str
    radius: str
    stroke: str
    more: tuple[tuple[str, str], ...] = ()  # cells of other columns, by their names


@dataclass(frozen=True)
class Points:
    """The marks of training images, by id, in the order of the table; what they add to the tags; lines for people.

    rows: by id, of each mark the rows of the table that it is made of.
    """

    marks: dict[str, list[Mark]] = field(default_factory=dict)
    rows: dict[str, list[list[PointRow]]] = field(default_factory=dict)
    added: dict[str, set[int]] = field(default_factory=dict)  # classes that are no tag of the image
    warnings: list[str] = field(default_factory=list)

    def tagged(self, index: Index) -> Index:
        """The index with the classes that are `added`."""
        if not self.added:
            return index
        present = index.present.copy()
        for row, image_id in enumerate(index.ids):
            present[row, [*self.added.get(image_id, ())]] = True
        return replace(index, present=present)


def read_point_rows(path: Path) -> list[PointRow]:
    """The rows of a table of points. Raises InputError for what is no such table, with every malformed line."""
    names, lines, line_problems = read_cells(path, images=ROWS_MAX // 2)
    columns = [name.casefold() for name in names]
    problems = [
        f"{path}:1: {'no' if name not in columns else 'more than one'} column {name!r}; "
        f"expected image, x, y and class, perhaps radius and stroke, found {', '.join(names)!r}"
        for name in COLUMNS
        if columns.count(name) > 1 or (name in REQUIRED and name not in columns)
    ]
    if problems := problems or line_problems:
        raise InputError(problems)
    rows = []
    for where, cells in lines:
        texts = {name: "" if value is None else str(value).strip() for name, value in cells.items()}
        own = {name.casefold(): normal(text) for name, text in texts.items()}
        more = tuple((name, text) for name, text in texts.items() if name.casefold() not in COLUMNS)
        rows.append(PointRow(where, *(own.get(name, "") for name in COLUMNS), more))
    return rows


def read_points(path: Path, index: Index, classes: list[str], *, tags: str, unknown: str = "fail") -> Points:
    """Read a table of points for the images of an index, both splits.

    tags: "add" or "refuse" a class that is no tag of its image (params `data.points_tags`).
    unknown: "skip" rows of images that the index does not have, with a warning, or "fail" (params `data.on_bad`).

    Raises InputError with every offender, kind by kind.
    """
    return PointReader(index, classes, tags=tags, unknown=unknown).read(read_point_rows(path))


def write_point_rows(path: Path, rows: Iterable[PointRow]) -> None:
    """Write a table of points, atomically, with all columns that its rows had."""
    rows = list(rows)
    more = list(dict.fromkeys(name for row in rows for name, _ in row.more))
    cells = ((*row[1:-1], *(dict(row.more).get(name, "") for name in more)) for row in rows)
    write_csv(path, [*COLUMNS, *more], cells)


def place_text(value: float) -> str:
    """A place or radius as short as it may be: 12.0 -> 12."""
    return f"{round(value, DIGITS):.{DIGITS}f}".removesuffix(".0")


class Place(NamedTuple):
    """A row that is understood."""

    row: PointRow
    image_id: str
    label: int
    x: float
    y: float
    radius: float


class PointReader:
    """Understands rows of points for the images of one index, as often as they change; see `read_points`."""

    def __init__(self, index: Index, classes: list[str], *, tags: str, unknown: str = "fail") -> None:
        self.index, self.classes, self.tags, self.unknown = index, classes, tags, unknown
        self.row = {image_id: row for row, image_id in enumerate(index.ids)}
        self.by_path = dict(zip(index.paths, index.ids, strict=True))
        self.labels = {ERASE: UNLABELED} | {name: k for k, name in enumerate([BACKGROUND, *classes])}
        self.found: dict[str, str | InputError | None] = {}  # ids by what the table calls images, or what is wrong

    @cached_property
    def names(self) -> Names:
        return Names(self.index.paths)

    def read(self, rows: Sequence[PointRow]) -> Points:
        """Raises InputError with every offender, kind by kind."""
        self.problems: dict[str, list[str]] = defaultdict(list)
        first = {row.image: row.where for row in reversed(rows)}
        found = {name: self.find(name) for name in first}
        self.problems["image"] += [f"{first[name]}: {one}" for name, one in found.items() if type(one) is InputError]
        unused: dict[str, None] = {}
        places = []
        for place in filter(None, map(self._place, rows)):
            if self.index.splits[self.row[place.image_id]] == "train":
                places.append(place)
            else:
                unused[place.image_id] = None
        strokes, added = self._strokes(places), self._added(places)
        self._class_problems(rows)
        if any(self.problems.values()):
            raise InputError(line for kind in self.problems.values() for line in kind)
        marks, rows_of = defaultdict(list), defaultdict(list)
        for (image_id, _), own in strokes.items():
            path = np.array([(place.x, place.y) for place in own])
            marks[image_id].append(Mark(own[0].label, own[0].radius, path))
            rows_of[image_id].append([place.row for place in own])
        names = {image_id: ", ".join(self.classes[k - 1] for k in sorted(own)) for image_id, own in added.items()}
        lost = (name for name, one in found.items() if one is None)
        warnings = [
            *warn_of(
                "images have points of a class that is not among their tags, which is added",
                (f"{image_id} ({text})" for image_id, text in names.items()),
            ),
            *warn_of("images of points are evaluated, not learned from; their points are not used", unused),
            *warn_of("images of points are not among the data; their points are left out", lost),
        ]
        return Points(dict(marks), dict(rows_of), added, warnings)

    def find(self, name: str) -> str | InputError | None:
        """The id of an image, what is wrong with its name, or None for one that is left out."""
        if name not in self.found:
            self.found[name] = name if name in self.row else self._find(name)
        return self.found[name]

    def _find(self, name: str) -> str | InputError | None:
        try:
            return self.by_path[self.names.find(name)]
        except InputError as error:
            return None if self.unknown == "skip" and not self.names.fitting(name) else error

    def _place(self, row: PointRow) -> Place | None:
        """A row's place on an image, or None with the reason noted."""
        image_id, label = self.found[row.image], self.labels.get(row.name)
        if not isinstance(image_id, str) or label is None:
            return None
        numbers = {"x": row.x, "y": row.y, "radius": row.radius or "0"}
        values = {name: _number(text) for name, text in numbers.items()}
        for name in (name for name, value in values.items() if value is None):
            wrong = f"{row.where}: {name} {numbers[name][:40]!r}"
            self.problems["number"].append(f"{wrong}; expected a number, as 12 or 12.5")
        if row.stroke and not re.fullmatch("[0-9]{1,9}", row.stroke):
            self.problems["number"].append(f"{row.where}: stroke {row.stroke[:40]!r}; expected a whole number")
        elif None not in values.values():
            height, width = (int(sides[self.row[image_id]]) for sides in (self.index.heights, self.index.widths))
            if not (0 <= values["x"] <= width and 0 <= values["y"] <= height):
                size = f"{row.image} has {width} x {height} pixels (as turned by its EXIF orientation)"
                self.problems["outside"].append(f"{row.where}: {row.x}, {row.y} lies outside of the image; {size}")
            elif not 0 <= values["radius"] <= max(height, width):
                limit = f"expected 0 to {max(height, width)} pixels, the longer side of {row.image}"
                self.problems["radius"].append(f"{row.where}: radius {row.radius}; {limit}")
            else:
                return Place(row, image_id, label, **values)
        return None

    def _strokes(self, places: list[Place]) -> dict[tuple[str, str | int], list[Place]]:
        """Places by the mark that they belong to: those with a stroke's number together, others each alone."""
        strokes: dict[tuple[str, str | int], list[Place]] = {}
        for number, place in enumerate(places):
            own = strokes.setdefault((place.image_id, place.row.stroke or number), [])
            own.append(place)
            if (own[0].label, own[0].radius) != (place.label, place.radius):
                what = f"stroke {place.row.stroke} of {place.image_id} begins with another class or radius"
                hint = f"({own[0].row.where}); give this one a number of its own"
                self.problems["stroke"].append(f"{place.row.where}: {what} {hint}")
        return strokes

    def _added(self, places: list[Place]) -> dict[str, set[int]]:
        """Classes that are no tag of the image on which they have a place."""
        added: dict[str, set[int]] = defaultdict(set)
        for row, image_id, label, *_ in places:
            if label == UNLABELED or self.index.present[self.row[image_id], label] or label in added.get(image_id, ()):
                continue
            added[image_id].add(label)
            if self.tags == "refuse":
                hint = "tag the image with it, or set data.points_tags: add"
                name = self.classes[label - 1]
                self.problems["tag"].append(f"{row.where}: {name!r} is no tag of {image_id}; {hint}")
        return dict(added)

    def _class_problems(self, rows: Sequence[PointRow]) -> None:
        span = f"the {len(self.classes)} classes ({self.classes[0]} ... {self.classes[-1]})"
        for row in rows:
            if row.name not in self.labels:
                none = f"class {row.name[:80]!r} is none of {span}, nor {BACKGROUND} or {ERASE}"
                self.problems["class"].append(f"{row.where}: {none}; {self._class_hint(row.name)}")

    def _class_hint(self, name: str) -> str:
        if name.isdecimal():
            return "classes are named, not numbered"
        near = nearest(name, [*self.classes, BACKGROUND, ERASE])
        return f"did you mean {near!r}?" if near else "fix it, or remove the row"


def _number(text: str) -> float | None:
    """A finite number as people write it, else None: float() knows too many ways."""
    if len(text) > 60 or not re.fullmatch(NUMBER, text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
