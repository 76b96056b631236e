"""Data as people have it: a folder of images, with any names and subfolders, and one table of their tags.

ROOT/.../NAME.jpg        the images (or of other kinds, see data.images), wherever they lie below the root
ROOT/tags.csv            a table with the columns `image` and `tags`, and perhaps `split` (see data.table for the forms)
ROOT/classes.txt         one class name a line; without this file the classes are the table's tags, sorted
ROOT/masks/.../NAME.png  masks, where there are any, in folders as their images are; they need classes.txt

A table or list names an image by its path, or by as much of the path's end as no other image shares; the ending may be
missing. So `x`, `x.jpg`, `cats/x.jpg` and `images/cats/x.jpg` all name images/cats/x.jpg if there is no other x.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from dsrg.data.classes import class_problems, composites, doubts_about, name_fault, read_classes
from dsrg.data.ids import ListEntry, id_problems, image_ids
from dsrg.data.images import ENDINGS, HOW_TO_READ, files_left_out
from dsrg.errors import InputError
from dsrg.sources.table import Row, normal, read_table, table_text
from dsrg.sources.validation import EXAMPLES, TAG_SEPARATORS, ImageProblem, Record, Scan, tag_faults, warn_of

NOT_THERE = "expected its path below data.root"
IMAGES, MASKS = "images", "masks"  # folders below the root; the first is left out of ids
DRAWN = "Segmentation"  # how folders begin that hold masks in PASCAL VOC's layout


class Entry(NamedTuple):
    """One image of a split."""

    where: str  # where it is said that it belongs there
    image: str  # path below the root
    split: str  # "train" or "val"


class SplitChoice(NamedTuple):
    """The images of both splits, and all that is wrong with the choice."""

    entries: list[Entry]
    problems: list[str]
    faults: list[ImageProblem]
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
        rows, notes = read_table(path, separator=separator, images=len(files.images))
    except InputError as error:
        return Scan(root, [], [], error.problems)
    names = Names(files.images, others=files.others)
    located, faults, elsewhere = _located(rows, names)
    if any((name or "").endswith(".txt") for name in (train, val)):
        choice = _choose_by_lists(located, names, root, {"train": train, "val": val})
    else:
        choice = _choose_by_column(located, path, {"train": train, "val": val})
    try:
        classes, doubts = _read_or_collect_classes(root, path, rows, separator=separator)
        problems = []
    except InputError as error:
        classes, doubts, problems = [], [], error.problems

    ids = image_ids({entry.image: entry.image.removeprefix(f"{IMAGES}/") for entry in choice.entries})
    problems += choice.problems
    listed = (ListEntry(ids[entry.image], entry.split, entry.where) for entry in choice.entries)
    problems += id_problems(listed, again="put all its tags into one row, remove the other")
    row_of = {image: row for row, image in reversed(located)}  # the first of several rows
    faults += choice.faults
    if classes:
        tagged = ((ids[image], row_of[image].where, row_of[image].tags) for image in ids)
        faults += tag_faults(tagged, classes)
    masks, mask_problems, mask_warnings = _match_masks(files.masks, ids, root)
    records = [
        Record(ids[image], split, image, row_of[image].tags, masks.get(image)) for _, image, split in choice.entries
    ]
    unread = files_left_out(name for name in files.others if PurePosixPath(name).suffix.lower() in HOW_TO_READ)
    unlisted = warn_of("images are in no row of the table, so not used", sorted(set(files.images) - row_of.keys()))
    warnings = [*files.warnings, *unread, *notes, *elsewhere, *unlisted, *choice.warnings, *mask_warnings, *doubts]
    return Scan(root, classes, records, [*problems, *mask_problems], faults, warnings)


# ---------------------------------------------------------------------------------------------------------------
# Classes


def _read_or_collect_classes(
    root: Path, table: Path, rows: list[Row], *, separator: str
) -> tuple[list[str], list[str]]:
    """Of classes.txt, or all tags of the table, sorted; and doubts about them. Raises InputError with every bad name.

    Where people do not list their classes, a tag that is made of other tags is taken for several.
    """
    if (root / "classes.txt").exists():
        return [normal(name) for name in read_classes(root / "classes.txt")], []
    first = {tag: row.where for row in reversed(rows) for tag in row.tags}
    classes = sorted(first)
    if not classes:
        raise InputError(f"{table}: no tag in any row, so no class to learn; tag the images")
    instead = "leave the cell empty instead"
    bad = {name: fault for name in classes if "|" not in name and (fault := name_fault(name, instead=instead))}
    problems = [f"{first[name]}: {fault}" for name, fault in bad.items()]
    sound = [name for name in classes if name not in bad]
    made = composites(sound, sound)
    for name in sound:
        sign = next((sign for sign in TAG_SEPARATORS if sign in name and sign != separator), None)
        if name in made and made[name].gap == separator:
            problems.append(f"{first[name]}: tag {name!r}: write each tag as an item of its own in the list")
        elif name in made:
            problems.append(f"{first[name]}: tag {name!r}: {made[name].hint}, else list your classes in classes.txt")
        elif sign:
            hint = "if that separates tags, set data.separator to it, else list your classes in classes.txt"
            problems.append(f"{first[name]}: tag {name!r} holds {sign!r}; {hint}")
    doubts = [line for what, which in doubts_about(sound) for line in warn_of(what, which)]
    if problems := problems or class_problems(classes, [first[name] for name in classes], table):
        raise InputError([*problems, *doubts])
    return classes, doubts


# ---------------------------------------------------------------------------------------------------------------
# Files and their names


class Files(NamedTuple):
    """Paths below the root, with `/`, sorted."""

    images: list[str]
    masks: list[str]
    warnings: list[str]
    others: list[str]  # what is read neither as an image nor as a mask


def find_files(root: Path, *, none_is_fine: bool = False) -> Files:
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
    masks = [name for name in named if _top(name) == MASKS]
    drawn = [name for name in named if _top(name).startswith(DRAWN) and "/" in name]
    images = sorted({*named} - {*masks, *drawn})
    others = sorted(set(found) - set(named))
    if not (images or none_is_fine):
        there = "".join(f"; {line}" for line in files_left_out(others))
        expected = f"expected {', '.join(ENDINGS)} (data.root)"
        raise InputError(f"{root}: no image in this folder or below it; {expected}{there}")
    shown = [name.encode(errors="backslashreplace").decode() for name in unnameable]
    warnings = warn_of("files have names that are not UTF-8, so are not used", sorted(shown))
    warnings += warn_of("folders hold masks of another layout, so are not used", sorted({_top(name) for name in drawn}))
    warnings += warn_of("folders cannot be opened", sorted(str(error.filename) for error in closed))
    return Files(images, masks, warnings, others)


def _top(name: str) -> str:
    """The first folder of a path, or the file itself."""
    return PurePosixPath(name).parts[0]


def _is_broken(name: str) -> bool:
    """Python marks bytes that are not UTF-8 with code points that no text may hold."""
    return any("\ud800" <= character <= "\udfff" for character in name)


class Names:
    """Finds a path by its end, with or without the file's ending, as long as only one path ends so."""

    def __init__(self, paths: Iterable[str], *, others: Iterable[str] = ()) -> None:
        """others: files that are there too, and are not read."""
        self._others = set(others)
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            for end in _ends(path):
                for name in dict.fromkeys((end, _bare(end))):
                    self._by_end[name].append(path)

    @cached_property
    def _by_folded(self) -> dict[str, str]:
        """The first path of each name, case aside: for hints, so made only where something is wrong."""
        return {name.casefold(): first for name, (first, *_) in reversed(self._by_end.items())}

    @cached_property
    def _by_number(self) -> dict[str, list[str]]:
        """Paths whose bare name is a number, by that number without the zeros before it."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, paths in self._by_end.items():
            if name.isdecimal():
                found[name.lstrip("0")] += paths
        return found

    def fitting(self, name: str) -> list[str]:
        """The paths that `name` may stand for."""
        wanted = _wanted(name)
        found = self._by_end.get(wanted, [])
        if not found and _is_elsewhere(name):
            ends = [end for path in _paths_in(name) for end in _ends(path)]
            found = next((self._by_end[end] for end in ends if end in self._by_end), [])
        exact = [path for path in found if path == wanted] or [path for path in found if normal(path) == wanted]
        return exact if len(exact) == 1 else found

    def find(self, name: str) -> str:
        """The path that `name` stands for. Raises InputError if there is none or several; who asks adds the place."""
        found = self.fitting(name)
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"image {name!r} may be any of {', '.join(found[:EXAMPLES])}; name more of its path")
        if there := next((other for other in self._others if _wanted(name) in _ends(other)), None):
            ending = PurePosixPath(there).suffix.lower()
            how = HOW_TO_READ.get(ending, f"expected one of {', '.join(ENDINGS)}")
            raise InputError(f"image {name!r} is there, but {ending or 'a file without ending'} is not read; {how}")
        raise InputError(f"no image {name!r}; {self._hint(_wanted(name).casefold())}")

    def _hint(self, folded: str) -> str:
        """What may have been meant: a path in another case, with another ending, or below another folder."""
        tried = (name for end in _ends(folded) for name in (end, os.path.splitext(end)[0]))
        near = next((self._by_folded[name] for name in tried if name in self._by_folded), None)
        if near is None and folded.isdecimal():
            near = next((path for path in self._by_number.get(folded.lstrip("0"), [])), None)
            return f"did you mean {near!r}? Spreadsheets drop zeros; keep such names as text" if near else NOT_THERE
        return f"did you mean {near!r}?" if near else NOT_THERE


def _located(rows: list[Row], names: Names) -> tuple[list[tuple[Row, str]], list[ImageProblem], list[str]]:
    """Rows with the paths of their images, the rows that have none, and what is said of names from elsewhere."""
    located, faults, elsewhere = [], [], []
    for row in rows:
        try:
            located.append((row, names.find(row.image)))
        except InputError as error:
            faults.append(ImageProblem(row.where, f"{row.where}: {error}"))
            continue
        if _is_elsewhere(row.image):
            elsewhere.append(f"{row.image} = {located[-1][1]}")
    return located, faults, warn_of("images are named by a path or address elsewhere, and found by its end", elsewhere)


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
    by_name = {normal(_bare(mask).partition("/")[2]): mask for mask in masks}
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
    return normal(name).replace("\\", "/").removeprefix("./")


def _is_elsewhere(name: str) -> bool:
    """Does a name say where an image lies on another machine: an absolute path, or an address?"""
    return re.match(r"[a-z][a-z0-9+.-]*://|[a-z]:[\\/]|[\\/]", name, re.IGNORECASE) is not None


def _paths_in(name: str) -> Iterator[str]:
    """The paths that such a name may hold, its percent signs decoded; one that Label Studio renamed under its old name.

    >>> list(_paths_in("/data/local-files/?d=shots/a%20b.jpg"))
    ['/data/local-files/', 'shots/a b.jpg']
    >>> list(_paths_in("/data/upload/1/0a1b2c3d-cat.jpg"))
    ['/data/upload/1/0a1b2c3d-cat.jpg', 'cat.jpg']
    """
    address, _, query = _wanted(name).partition("?")
    for path in (address, *(value for _, value in parse_qsl(query))):
        yield (path := unquote(path))
        if renamed := re.fullmatch(r".*/upload/.*?/?[0-9a-f]{8}-([^/]+)", path):
            yield renamed[1]


def _ends(path: str) -> Iterator[str]:
    """a/b/c.jpg, b/c.jpg, c.jpg."""
    parts = normal(path).split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _bare(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


# ---------------------------------------------------------------------------------------------------------------
# Splits


def _choose_by_column(located: list[tuple[Row, str]], table: Path, wanted: dict[str, str | None]) -> SplitChoice:
    """The images whose row says so, in any case; all of them for training where the table has no column `split`."""
    if not any(row.split is not None for row, _ in located):
        problem = (
            f"{table}: no column 'split', so data.val: {wanted['val']!r} names nothing; add the column, name a list "
            "of images (val.txt), or set data.val: null to draw data.val_share of the images"
        )
        entries = [Entry(row.where, image, "train") for row, image in located]
        return SplitChoice(entries, [problem] if wanted["val"] is not None else [], [], [])
    rows_of = Counter(row.split for row, _ in located)
    there = {name.casefold() for name in rows_of}
    split_of = {name.casefold(): split for split, name in wanted.items() if name is not None}
    problems = [
        f"{table}: no row has the split {name!r} (data.{split}); there are {', '.join(sorted(rows_of))}"
        for split, name in wanted.items()
        if name is not None and name.casefold() not in there
    ]
    if len(split_of) < sum(name is not None for name in wanted.values()):
        problems.append(f"{table}: data.train and data.val both name {wanted['train']!r}; expected two splits")
    entries = [
        Entry(row.where, image, split_of[row.split.casefold()])
        for row, image in located
        if row.split.casefold() in split_of
    ]
    others = [
        f"{name!r} ({count})" if name else f"rows without one ({count})"
        for name, count in rows_of.items()
        if name.casefold() not in split_of
    ]
    return SplitChoice(entries, problems, [], warn_of("other splits are not used", sorted(others)))


def _choose_by_lists(
    located: list[tuple[Row, str]], names: Names, root: Path, wanted: dict[str, str | None]
) -> SplitChoice:
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
                faults.append(ImageProblem(where, f"{where}: {error}"))
                continue
            if image in tagged:
                entries.append(Entry(where, image, split))
            else:
                faults.append(ImageProblem(where, f"{where}: {image} has no row in the table of tags; add one"))
        if not any(map(str.strip, lines)):
            problems.append(f"{root / name}: no image in this list; expected one a line (data.{split})")
    twice = Counter(image for _, image in located)
    problems += [f"{row.where}: {image} has another row; remove one" for row, image in located if twice[image] > 1]
    used = {entry.image for entry in entries}
    warnings = warn_of("tagged images are in no list, so not used", sorted(tagged - used))
    return SplitChoice(entries, problems, faults, warnings)
