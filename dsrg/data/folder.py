"""Data as people have it: a folder of images, with any names and subfolders, and one table of their tags.

ROOT/.../NAME.jpg        the images (or .jpeg, .png, .webp, .tif, .tiff), wherever they lie below the root
ROOT/tags.csv            a table with the columns `image` and `tags`, and perhaps `split`; others are ignored. Columns
                         are parted by comma, semicolon or tab, tags within their cell by `data.separator`. Or
                         tags.jsonl: {"image": "a.jpg", "tags": ["cat", "dog"], "split": "train"} on each line
ROOT/classes.txt         one class name a line; without this file the classes are the table's tags, sorted
ROOT/masks/.../NAME.png  masks, where there are any, in folders as their images are; they need classes.txt

A table or list names an image by its path, or by as much of the path's end as no other image shares; the ending may be
missing. So `x`, `x.jpg`, `cats/x.jpg` and `images/cats/x.jpg` all name images/cats/x.jpg if there is no other x.
"""

import csv
import io
import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dsrg.data.check import EXAMPLES, TAG_SEPARATORS, Fault, Record, Scan, tag_faults, warn_of
from dsrg.data.classes import class_problems, read_classes
from dsrg.data.ids import Listed, id_problems, image_ids
from dsrg.data.images import ENDINGS
from dsrg.errors import InputError
from dsrg.files import read_text

IMAGES, MASKS = "images", "masks"  # folders below the root; the first is left out of ids
DELIMITERS = ",;\t"  # of columns
TABLE_BYTES, TABLE_LINES = 32 * 1024**2, 200_000  # at most, but for more images: a table is read at once


class Row(NamedTuple):
    """One image in a table of tags."""

    where: str  # file:line
    image: str
    tags: tuple[str, ...]
    split: str | None  # None: the table tells no splits


class Entry(NamedTuple):
    """One image of a split."""

    where: str  # where it is said that it belongs there
    image: str  # path below the root
    split: str  # "train" or "val"


class Choice(NamedTuple):
    """The images of both splits, and all that is wrong with the choice."""

    entries: list[Entry]
    problems: list[str]
    faults: list[Fault]
    warnings: list[str]


def scan_folder(root: str | Path, *, train: str, val: str | None, table: str, separator: str) -> Scan:
    """Read the table, find its images and masks; opens no image.

    `train` and `val` are values of the table's column `split`, or lists below the root (NAME.txt, one image a line);
    without `val` there are training images only, and in a table without splits every image is one. `table` is the path
    of the table below the root, `separator` what parts tags within a cell. Never raises for bad data: all problems are
    in the scan.
    """
    root, path = Path(root), Path(root) / table
    try:
        files = find_files(root)
        rows = read_table(path, separator=separator, images=len(files.images))
    except InputError as error:
        return Scan(root, [], [], error.problems)
    names = Names(files.images)
    located, faults = _located(rows, names)
    if any((name or "").endswith(".txt") for name in (train, val)):
        choice = _choose_by_lists(located, names, root, {"train": train, "val": val})
    else:
        choice = _choose_by_column(located, path, {"train": train, "val": val})
    try:
        classes, problems = _read_or_collect_classes(root, path, rows, separator=separator), []
    except InputError as error:
        classes, problems = [], error.problems

    ids = image_ids({entry.image: entry.image.removeprefix(f"{IMAGES}/") for entry in choice.entries})
    problems += choice.problems
    problems += id_problems(Listed(ids[entry.image], entry.split, entry.where) for entry in choice.entries)
    row_of = {image: row for row, image in reversed(located)}  # the first of several rows
    faults += choice.faults
    if classes:
        tagged = ((ids[image], row_of[image].where, row_of[image].tags) for image in ids)
        faults += tag_faults(tagged, classes)
    masks, mask_problems, mask_warnings = _match_masks(files.masks, ids, root)
    records = [
        Record(ids[image], split, image, row_of[image].tags, masks.get(image)) for _, image, split in choice.entries
    ]
    unlisted = warn_of("images are in no row of the table, so not used", sorted(set(files.images) - row_of.keys()))
    warnings = [*files.warnings, *unlisted, *choice.warnings, *mask_warnings]
    return Scan(root, classes, records, [*problems, *mask_problems], faults, warnings)


# ---------------------------------------------------------------------------------------------------------------
# The table


def read_table(path: Path, *, separator: str, images: int, key: str = "data.tags") -> list[Row]:
    """Read a table of tags: .csv or .tsv with a header, or .jsonl. Raises InputError with every malformed line.

    So that a table takes no more memory than there is reason for, it may have TABLE_LINES, or two for each of `images`.
    key: the param or option that named it.
    """
    if not path.is_file():
        tables = sorted(other.name for other in path.parent.glob("*") if other.suffix in (".csv", ".tsv", ".jsonl"))
        hint = f"set {key} to one of those there: {', '.join(tables)}" if tables else "expected a table of tags"
        raise InputError(f"{path}: no such file; {hint} ({key})")
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: expected a table of tags, .csv, .tsv or .jsonl ({key})")
    text, most = table_text(path, images=images), max(TABLE_LINES, 2 * images)
    if (lines := text.count("\n")) > most:
        raise InputError(f"{path}: {lines:,} lines; expected at most {most:,}, one for each image")
    rows = readers[path.suffix.lower()](path, text, separator)
    if not rows:
        raise InputError(f"{path}: a table without rows; expected one image a row")
    return rows


def table_text(path: Path, *, images: int) -> str:
    """Text of a table or list. Raises InputError if it has more bytes than so many images can need."""
    return read_text(path, most=TABLE_BYTES * max(TABLE_LINES, 2 * images) // TABLE_LINES)


def table_columns(path: Path, text: str) -> tuple[list[str], str]:
    """Names of the columns in the first line of a CSV table's text, in lower case, and what parts them."""
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)
    try:
        cells = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error as error:
        raise InputError(f"{path}:1: {error}; expected the names of the columns") from None
    return [cell.strip().casefold() for cell in cells], delimiter


def _read_csv(path: Path, text: str, separator: str) -> list[Row]:
    columns, delimiter = table_columns(path, text)
    problems = [
        f"{path}:1: {'no' if name not in columns else 'more than one'} column {name!r}; expected image and tags, "
        f"perhaps split, found {', '.join(columns)!r}"
        for name in ("image", "tags", "split")
        if columns.count(name) != 1 and not (name == "split" and name not in columns)
    ]
    if problems:
        raise InputError(problems)
    rows = []
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        next(lines)
        for cells in lines:
            where = f"{path}:{lines.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                hint = f"quote a name or tags that hold {delimiter!r}"
                problems.append(f"{where}: {len(cells)} cells under {len(columns)} columns; {hint}")
                continue
            cell = dict(zip(columns, cells, strict=True))
            rows.append(_row(where, cell["image"], cell["tags"].split(separator), cell.get("split")))
    except csv.Error as error:
        problems.append(f"{path}:{lines.line_num}: {error}")
    if problems:
        raise InputError(problems)
    return rows


def _read_jsonl(path: Path, text: str, separator: str) -> list[Row]:
    rows, problems = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            tags = found["tags"].split(separator) if isinstance(found["tags"], str) else found["tags"]
            if not all(isinstance(value, str) for value in (found["image"], found.get("split", ""), *tags)):
                raise TypeError("image, tags and split are text")
            rows.append(_row(f"{path}:{number}", found["image"], tags, found.get("split")))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            expected = '{"image": "a.jpg", "tags": ["cat"]}'
            problems.append(f"{path}:{number}: expected {expected}, perhaps with a split ({reason})")
    if any(row.split is not None for row in rows):
        problems += [f"{row.where}: no split, but other lines have one" for row in rows if row.split is None]
    if problems:
        raise InputError(problems)
    return rows


def _row(where: str, image: str, tags: Iterable[str], split: str | None) -> Row:
    names = dict.fromkeys(_normal(tag.strip()) for tag in tags)
    return Row(where, image.strip(), tuple(name for name in names if name), split and split.strip())


def _normal(text: str) -> str:
    """The same letters in the same code points, whatever system wrote them."""
    return unicodedata.normalize("NFC", text)


# ---------------------------------------------------------------------------------------------------------------
# Classes


def _read_or_collect_classes(root: Path, table: Path, rows: list[Row], *, separator: str) -> list[str]:
    """Of classes.txt, or all tags of the table, sorted. Raises InputError with every bad name."""
    if (root / "classes.txt").exists():
        return [_normal(name) for name in read_classes(root / "classes.txt")]
    first = {tag: row.where for row in reversed(rows) for tag in row.tags}
    classes = sorted(first)
    problems = [
        f"{first[name]}: tag {name!r} holds {sign!r}; if that parts tags, set data.separator to it, "
        "else list your classes in classes.txt"
        for name in classes
        for sign in TAG_SEPARATORS  # in the name of a class, one of them is taken for a mistake
        if sign in name and sign != separator
    ]
    if not classes:
        raise InputError(f"{table}: no tag in any row, so no class to learn; tag the images")
    if problems := problems or class_problems(classes, [first[name] for name in classes], table):
        raise InputError(problems)
    return classes


# ---------------------------------------------------------------------------------------------------------------
# Files and their names


class Files(NamedTuple):
    """Paths below the root, with `/`, sorted."""

    images: list[str]
    masks: list[str]
    warnings: list[str]


def find_files(root: Path) -> Files:
    """All images and masks below the root, links followed. Raises InputError if there is no folder, or no image."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one with images and a table of tags (data.root)")
    found, unnameable, seen, closed = [], [], set(), []
    for folder, folders, files in os.walk(root, followlinks=True, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(folder)) in seen:  # a link to a folder that holds it would have no end
            folders.clear()
            continue
        seen.add(real)
        below = [Path(folder, name).relative_to(root).as_posix() for name in files if not name.startswith(".")]
        unnameable += [name for name in below if _is_broken(name)]
        found += [name for name in below if not _is_broken(name)]
    named = sorted(name for name in found if PurePosixPath(name).suffix.lower() in ENDINGS)
    masks = [name for name in named if PurePosixPath(name).parts[0] == MASKS]
    images = [name for name in named if PurePosixPath(name).parts[0] != MASKS]
    if not images:
        raise InputError(f"{root}: no image in this folder or below it; expected {', '.join(ENDINGS)} (data.root)")
    shown = [name.encode(errors="backslashreplace").decode() for name in unnameable]
    warnings = warn_of("files have names that are not UTF-8, so are not used", sorted(shown))
    warnings += warn_of("folders cannot be opened", sorted(str(error.filename) for error in closed))
    return Files(images, masks, warnings)


def _is_broken(name: str) -> bool:
    """Python marks bytes that are not UTF-8 with code points that no text may hold."""
    return any("\ud800" <= character <= "\udfff" for character in name)


class Names:
    """Finds a path by its end, with or without the file's ending, as long as only one path ends so."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            for end in _ends(path):
                for name in dict.fromkeys((end, _bare(end))):
                    self._by_end[name].append(path)

    @cached_property
    def _by_folded(self) -> dict[str, str]:
        """The first path of each name, case aside: for hints, so made only where something is wrong."""
        return {name.casefold(): first for name, (first, *_) in reversed(self._by_end.items())}

    def fitting(self, name: str) -> list[str]:
        """The paths that `name` may stand for."""
        wanted = _wanted(name)
        found = self._by_end.get(wanted, [])
        exact = [path for path in found if path == wanted] or [path for path in found if _normal(path) == wanted]
        return exact if len(exact) == 1 else found

    def find(self, name: str) -> str:
        """The path that `name` stands for. Raises InputError if there is none or several; who asks adds the place."""
        found = self.fitting(name)
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"image {name!r} may be any of {', '.join(found[:EXAMPLES])}; name more of its path")
        raise InputError(f"no image {name!r}; {self._hint(_wanted(name).casefold())}")

    def _hint(self, folded: str) -> str:
        """What may have been meant: a path in another case, with another ending, or below another folder."""
        tried = (name for end in _ends(folded) for name in (end, os.path.splitext(end)[0]))
        near = next((self._by_folded[name] for name in tried if name in self._by_folded), None)
        return f"did you mean {near!r}?" if near else "expected its path below data.root"


def _located(rows: list[Row], names: Names) -> tuple[list[tuple[Row, str]], list[Fault]]:
    """Rows with the paths of their images, and the rows that have none."""
    located, faults = [], []
    for row in rows:
        try:
            located.append((row, names.find(row.image)))
        except InputError as error:
            faults.append(Fault(row.where, f"{row.where}: {error}"))
    return located, faults


def _match_masks(masks: list[str], ids: dict[str, str], root: Path) -> tuple[dict[str, str], list[str], list[str]]:
    """The mask of each image -> masks by image, problems, warnings.

    A mask's path below `masks`, without its ending, must be the end of its image's path: masks/a/x.png is the mask of
    images/a/x.jpg. Of several that fit, the one that says more of the path is taken.
    """
    if not masks:
        return {}, [], []
    problems = []
    if not (root / "classes.txt").exists():
        problems.append(f"{root / 'classes.txt'}: no such file; masks need it: line k names the class of value k")
    by_name = {_normal(_bare(mask).partition("/")[2]): mask for mask in masks}
    owners = defaultdict(list)
    for image in ids:
        if mask := next((by_name[end] for end in _ends(_bare(image)) if end in by_name), None):
            owners[mask].append(image)
    problems += [
        f"{root / mask}: the mask of {len(images)} images: {', '.join(images[:EXAMPLES])}; "
        "put masks in folders as their images are"
        for mask, images in owners.items()
        if len(images) > 1
    ]
    warnings = warn_of("masks belong to no image that is used", sorted(set(masks) - owners.keys()))
    return {images[0]: mask for mask, images in owners.items()}, problems, warnings


def _wanted(name: str) -> str:
    """A name as somebody wrote it, as this module writes paths."""
    return _normal(name).replace("\\", "/").removeprefix("./")


def _ends(path: str) -> Iterator[str]:
    """a/b/c.jpg, b/c.jpg, c.jpg."""
    parts = _normal(path).split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _bare(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


# ---------------------------------------------------------------------------------------------------------------
# Splits


def _choose_by_column(located: list[tuple[Row, str]], table: Path, wanted: dict[str, str | None]) -> Choice:
    """The images whose row says so; all of them for training where the table has no column `split`."""
    if not any(row.split is not None for row, _ in located):
        problem = (
            f"{table}: no column 'split', so data.val: {wanted['val']!r} names nothing; add the column, name a list "
            "of images (val.txt), or set data.val: null to draw data.val_share of the images"
        )
        entries = [Entry(row.where, image, "train") for row, image in located]
        return Choice(entries, [problem] if wanted["val"] is not None else [], [], [])
    rows_of = Counter(row.split for row, _ in located)
    problems = [
        f"{table}: no row has the split {name!r} (data.{split}); there are {', '.join(sorted(rows_of))}"
        for split, name in wanted.items()
        if name is not None and not rows_of[name]
    ]
    split_of = {name: split for split, name in wanted.items() if name is not None}
    if len(split_of) < sum(name is not None for name in wanted.values()):
        problems.append(f"{table}: data.train and data.val both name {wanted['train']!r}; expected two splits")
    entries = [Entry(row.where, image, split_of[row.split]) for row, image in located if row.split in split_of]
    others = [f"{name!r} ({count})" for name, count in rows_of.items() if name not in split_of]
    return Choice(entries, problems, [], warn_of("other splits are not used", sorted(others)))


def _choose_by_lists(located: list[tuple[Row, str]], names: Names, root: Path, wanted: dict[str, str | None]) -> Choice:
    """The images of two lists."""
    entries, problems, faults = [], [], []
    tagged = {image for _, image in located}
    for split, name in wanted.items():
        if name is None:
            continue
        try:
            lines = table_text(root / name, images=len(tagged)).split("\n")
        except InputError as error:
            problems += [f"{problem}; expected a list of images (data.{split})" for problem in error.problems]
            continue
        for number, line in enumerate(lines, start=1):
            where = f"{root / name}:{number}"
            if not line.strip():
                continue
            try:
                image = names.find(line.strip())
            except InputError as error:
                faults.append(Fault(where, f"{where}: {error}"))
                continue
            if image in tagged:
                entries.append(Entry(where, image, split))
            else:
                faults.append(Fault(where, f"{where}: {image} has no row in the table of tags; add one"))
        if not any(map(str.strip, lines)):
            problems.append(f"{root / name}: no image in this list; expected one a line (data.{split})")
    twice = Counter(image for _, image in located)
    problems += [f"{row.where}: {image} has another row; remove one" for row, image in located if twice[image] > 1]
    used = {entry.image for entry in entries}
    warnings = warn_of("tagged images are in no list, so not used", sorted(tagged - used))
    return Choice(entries, problems, faults, warnings)
