"""Data as people have it: a folder of images, with any names and subfolders, and one table of their tags.

ROOT/.../NAME.jpg        the images (or of other kinds, see data.images), wherever they lie below the root
ROOT/tags.csv            a table with the columns `image` and `tags`, and perhaps `split` (see sources.table)
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
from dsrg.data.ids import ListEntry, id_problems, image_ids, normal
from dsrg.data.images import ENDINGS, HOW_TO_READ, files_left_out
from dsrg.errors import InputError, few
from dsrg.sources.table import Row, read_table, table_text
from dsrg.sources.validation import TAG_SEPARATORS, ImageProblem, Record, Scan, tag_faults, warn_of

NOT_THERE = "expected its path below data.root"
IMAGES, MASKS = "images", "masks"  # folders below the root; the first is left out of ids
DRAWN = "Segmentation"  # how folders begin that hold masks in PASCAL VOC's layout
UPLOAD = re.compile(r".*/upload/.*?/?[0-9a-f]{8}-([^/]+)")  # how Label Studio names a file, its own name behind

Located = list[tuple[Row, str]]  # rows of the table with the paths of their images below the root


def scan_folder(root: str | Path, *, train: str, val: str | None, table: str, separator: str) -> Scan:
    """Read the table, find its images and masks; opens no image.

    `train` and `val` are values of the table's column `split`, or lists below the root (NAME.txt, one image a line);
    without `val` there are training images only, and in a table without splits every image is one. `table` is the path
    of the table below the root, `separator` what parts tags within a cell. Never raises for bad data: all problems are
    in the scan.
    """
    scan, path = Scan(Path(root)), Path(root) / table
    with scan.collecting():
        files = find_files(scan.root)
        scan.warnings += files.warnings
        scan.warnings += files_left_out(name for name in files.others if _ending(name) in HOW_TO_READ)
        rows, notes = read_table(path, separator=separator, images=len(files.images))
        scan.warnings += notes
    if scan.problems:
        return scan
    names = Names(files.images, others=files.others)
    located = [(row, image) for row in rows if (image := find_image(scan, names, row.image, row.where)) is not None]
    warn_of_elsewhere(scan, ((row.image, image) for row, image in located))
    row_of = {image: row for row, image in reversed(located)}  # the first of several rows
    scan.warn("images are in no row of the table, so not used", sorted(set(files.images) - row_of.keys()))
    with scan.collecting():
        scan.classes = _read_or_collect_classes(scan, path, rows, separator=separator)

    splits = {split: name for split, name in {"train": train, "val": val}.items() if name is not None}
    if any(name.endswith(".txt") for name in splits.values()):
        entries = _choose_by_lists(scan, located, names, splits)
    else:
        entries = _choose_by_column(scan, located, path, splits)
    ids = image_ids({image: image.removeprefix(f"{IMAGES}/") for image, _, _ in entries})
    listed = (ListEntry(ids[image], split, where) for image, split, where in entries)
    scan.problems += id_problems(listed, again="put all its tags into one row, remove the other")
    if scan.classes:
        scan.faults += tag_faults(
            ((ids[image], row_of[image].where, row_of[image].tags) for image in ids), scan.classes
        )
    masks = _match_masks(scan, files.masks, ids)
    scan.records = [
        Record(ids[image], split, image, row_of[image].tags, masks.get(image)) for image, split, _ in entries
    ]
    return scan


def find_image(scan: Scan, names: "Names", name: str, where: str) -> str | None:
    """The image that the data name at a place; a fault of the scan where there is none."""
    try:
        return names.find(name)
    except InputError as error:
        scan.faults.append(ImageProblem(where, f"{where}: {error}"))
        return None


def warn_of_elsewhere(scan: Scan, named: Iterable[tuple[str, str]]) -> None:
    """Note those of the images, as they are named and where they lie, that are named by a place elsewhere."""
    elsewhere = (f"{name} = {image}" for name, image in named if _is_elsewhere(name))
    scan.warn("images are named by a path or address elsewhere, and found by its end", elsewhere)


# Classes


def _read_or_collect_classes(scan: Scan, table: Path, rows: list[Row], *, separator: str) -> list[str]:
    """Of classes.txt, or all tags of the table, sorted. Raises InputError with every bad name.

    Where people do not list their classes, a tag that is made of other tags is taken for several.
    """
    if (scan.root / "classes.txt").exists():
        return read_classes(scan.root / "classes.txt")
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
    scan.warnings += doubts
    return classes


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
        shown = (name for name in folders if not name.startswith("."))  # links last: a folder goes by its own name
        folders[:] = sorted(shown, key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        if (real := os.path.realpath(folder)) in seen:  # a link to a folder that holds it would have no end
            folders.clear()
            continue
        seen.add(real)
        below = [Path(folder, name).relative_to(root).as_posix() for name in files if not name.startswith(".")]
        unnameable += [name for name in below if _is_broken(name)]
        found += [name for name in below if not _is_broken(name)]
    named = sorted(name for name in found if _ending(name) in ENDINGS)
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
        self._others = list(others)
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            for end in _ends(path):
                for name in dict.fromkeys((end, _bare(end))):
                    self._by_end[name].append(path)

    @cached_property
    def _other_by_end(self) -> dict[str, str]:
        return {end: other for other in self._others for end in _ends(other)}

    @cached_property
    def _by_folded(self) -> dict[str, str]:
        """The first path of each name, case aside: for hints, so made only where something is wrong."""
        return {name.casefold(): paths[0] for name, paths in reversed(self._by_end.items())}

    @cached_property
    def _by_number(self) -> dict[str, list[str]]:
        """Paths whose bare name is a number, by that number without the zeros before it."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, paths in self._by_end.items():
            if name.isdecimal():
                found[name.lstrip("0")] += paths
        return found

    @cached_property
    def _by_upload(self) -> dict[str, list[str]]:
        """The paths whose files Label Studio gives another name, by that: it has no spaces and few signs."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, paths in self._by_end.items():
            if "/" not in name and (uploaded := re.sub(r"[^-\w.]", "", name.replace(" ", "_"))) != name:
                found[uploaded] += paths
        return found

    def fitting(self, name: str) -> list[str]:
        """The paths that `name` may stand for."""
        wanted = _wanted(name)
        found = self._by_end.get(wanted, [])
        if not found and _is_elsewhere(name):
            ends = {end for path in _paths_in(name) for end in _ends(path)} & self._by_end.keys()
            found = self._by_end[max(ends, key=lambda end: (end.count("/"), end))] if ends else []
            uploads = filter(None, map(UPLOAD.fullmatch, _paths_in(name)))
            found = found or next((self._by_upload[one[1]] for one in uploads if one[1] in self._by_upload), [])
        exact = [path for path in found if path == wanted] or [path for path in found if normal(path) == wanted]
        return exact if len(exact) == 1 else found

    def find(self, name: str) -> str:
        """The path that `name` stands for. Raises InputError if there is none or several; who asks adds the place."""
        found = self.fitting(name)
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"image {name!r} may be any of {few(found)}; name more of its path")
        if there := self._other_by_end.get(_wanted(name)):
            ending = _ending(there)
            how = HOW_TO_READ.get(ending, f"expected one of {', '.join(ENDINGS)}")
            raise InputError(f"image {name!r} is there, but {ending or 'a file without ending'} is not read; {how}")
        raise InputError(f"no image {name!r}; {self._hint(_wanted(name).casefold())}")

    def _hint(self, folded: str) -> str:
        """What may have been meant: a path in another case, with another ending, or below another folder."""
        ends = (end for path in (folded, unquote(folded)) for end in _ends(path))
        tried = (name for end in ends for name in (end, os.path.splitext(end)[0]))
        near = next((self._by_folded[name] for name in tried if name in self._by_folded), None)
        if near is None and (numbered := self._by_number.get(folded.lstrip("0"))) and folded.isdecimal():
            return f"did you mean {numbered[0]!r}? Spreadsheets drop zeros; keep such names as text"
        return f"did you mean {near!r}?" if near else NOT_THERE


def _match_masks(scan: Scan, masks: list[str], images: Iterable[str]) -> dict[str, str]:
    """The mask of each image that has one.

    A mask's path below `masks`, without its ending, must be the end of its image's path: masks/a/x.png is the mask of
    images/a/x.jpg. Of several that fit, the one that says more of the path is taken.
    """
    if masks and not (scan.root / "classes.txt").exists():
        lacks = "no such file; masks need it: line k names the class of value k"
        scan.problems.append(f"{scan.root / 'classes.txt'}: {lacks}")
    by_name = {next(_ends(_bare(mask).partition("/")[2])): mask for mask in masks}
    owners = defaultdict(list)
    for image in images:
        if mask := next((by_name[end] for end in _ends(_bare(image)) if end in by_name), None):
            owners[mask].append(image)
    scan.problems += [
        f"{scan.root / mask}: the mask of {len(own)} images: {few(own)}; put masks in folders as their images are"
        for mask, own in owners.items()
        if len(own) > 1
    ]
    scan.warn("masks belong to no image that is used", sorted(set(masks) - owners.keys()))
    return {own[0]: mask for mask, own in owners.items()}


def _wanted(name: str) -> str:
    """A name as somebody wrote it, as `_ends` writes paths."""
    return next(_ends(name.replace("\\", "/").removeprefix("./")))


def _is_elsewhere(name: str) -> bool:
    """Does a name say where an image lies on another machine: an absolute path, or an address?"""
    return re.match(r"[a-z][a-z0-9+.-]*://|[a-z]:[\\/]|[\\/]", name, re.IGNORECASE) is not None


def _paths_in(name: str) -> Iterator[str]:
    """The paths that such a name may hold, as it is or as an address; one that Label Studio renamed under its old name.

    >>> list(_paths_in("/data/local-files/?d=shots/a%20b.jpg"))
    ['/data/local-files/?d=shots/a%20b.jpg', '/data/local-files/', 'shots/a b.jpg']
    >>> list(_paths_in("/data/upload/1/0a1b2c3d-cat.jpg"))
    ['/data/upload/1/0a1b2c3d-cat.jpg', 'cat.jpg']
    """
    address, _, query = (whole := _wanted(name)).partition("?")
    for path in dict.fromkeys((whole, unquote(address), *(value for _, value in parse_qsl(query)))):
        yield path
        if renamed := UPLOAD.fullmatch(path):
            yield renamed[1]


def _ends(path: str) -> Iterator[str]:
    """a/b/c.jpg, b/c.jpg, c.jpg; spaces around a part do not count, as in a table's cells."""
    parts = [part.strip() for part in normal(path).split("/")]
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _bare(path: str) -> str:
    return str(PurePosixPath(path).with_suffix("")).rstrip()


def _ending(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


# Splits: entries are an image's path below the root, its split, and where it is said that it belongs there


def _choose_by_column(scan: Scan, located: Located, table: Path, splits: dict[str, str]) -> list[tuple[str, str, str]]:
    """The images whose row says so, in any case; all of them for training where the table has no column `split`."""
    rows_of = Counter(row.split for row, _ in located)
    if rows_of.keys() <= {None}:
        if "val" in splits:
            scan.problems.append(
                f"{table}: no column 'split', so data.val: {splits['val']!r} names nothing; add the column, name a "
                "list of images (val.txt), or set data.val: null to draw data.val_share of the images"
            )
        return [(image, "train", row.where) for row, image in located]
    there, split_of = {name.casefold() for name in rows_of}, {name.casefold(): split for split, name in splits.items()}
    scan.problems += [
        f"{table}: no row has the split {name!r} (data.{split}); there are {', '.join(sorted(rows_of))}"
        for split, name in splits.items()
        if name.casefold() not in there
    ]
    if len(split_of) < len(splits):
        both = f"data.train and data.val both name {splits['train']!r}"
        scan.problems.append(f"{table}: {both}; expected two splits")
    others = {name: count for name, count in rows_of.items() if name.casefold() not in split_of}
    named = (f"{name!r} ({count})" if name else f"rows without one ({count})" for name, count in others.items())
    scan.warn("other splits are not used", sorted(named))
    chosen = ((image, split_of.get(row.split.casefold()), row.where) for row, image in located)
    return [entry for entry in chosen if entry[1]]


def _choose_by_lists(scan: Scan, located: Located, names: Names, splits: dict[str, str]) -> list[tuple[str, str, str]]:
    """The images of two lists."""
    entries, rows_of = [], Counter(image for _, image in located)
    for split, name in splits.items():
        path = scan.root / name
        try:
            text = table_text(path, images=len(rows_of))
        except InputError as error:
            scan.problems += [f"{problem}; expected a list of images (data.{split})" for problem in error.problems]
            continue
        lines = {f"{path}:{number}": line.strip() for number, line in enumerate(text.split("\n"), 1) if line.strip()}
        if not lines:
            scan.problems.append(f"{path}: no image in this list; expected one a line (data.{split})")
        for where, line in lines.items():
            image = find_image(scan, names, line, where)
            if image in rows_of:
                entries.append((image, split, where))
            elif image is not None:
                lacks = f"{where}: {image} has no row in the table of tags; add one"
                scan.faults.append(ImageProblem(where, lacks))
    scan.problems += [
        f"{row.where}: {image} has another row; remove one" for row, image in located if rows_of[image] > 1
    ]
    used = {image for image, _, _ in entries}
    scan.warn("tagged images are in no list, so not used", sorted(rows_of.keys() - used))
    return entries
