"""A first params.yaml for somebody's own folder: which layout it has, and which values of `data` that means."""

import json
import mmap
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from math import sqrt
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ruamel.yaml import YAML

from dsrg.data.classes import composites, is_written_out
from dsrg.data.images import ENDINGS
from dsrg.errors import InputError, few
from dsrg.files import read_text
from dsrg.sources.folder import MASKS, find_files
from dsrg.sources.scan import scan
from dsrg.sources.table import ENDINGS_OF_TABLES, NoTable, read_cells, read_table, split_role
from dsrg.sources.validation import warn_of

COCO_PARTS = (b'"images"', b'"annotations"', b'"categories"')
SEPARATORS = "|;,\uff5c\uff1b\uff0c\u3001\n"  # of tags, the least likely in a name first
TRAIN_LISTS = ("trainaug", "train", "training")
VAL_LISTS = ("val", "valid", "validation", "test")
VOC_FOLDERS = ("JPEGImages", "Annotations", "ImageSets")
NO_DATA = ("readme", "license", "thumbs.db")  # how names of files begin that hold no data
HINTS = {  # what files that are no use here are likely to be
    ".xml": "annotations as PASCAL VOC has them belong into a folder Annotations, beside JPEGImages and ImageSets",
    ".json": "of labelme or another tool? export its annotations as COCO; a table? call lines of objects .jsonl",
    ".txt": "YOLO's boxes? export them as COCO; a table? save it as CSV",
    ".csv": "a table has to lie in the folder itself, and to have the columns image and tags",
    ".xlsx": "save the sheet as CSV",
    ".xls": "save the sheet as CSV",
}
FROM_SCRATCH = "folder-scratch"  # the recipe for folders that needs no weights
SIZED_FOR = {"folder": 642, FROM_SCRATCH: 400}  # training images that the trainings of these recipes were sized with
STEPS = ("cam.steps", "grow.start", "dsrg.steps", "retrain.steps", "optimizer.warmup")
STEPS_RANGE = 0.25, 2.0  # times a recipe's: fewer steps learn too little, more bring little
SIZE_MIN = 145  # pixels, the demo's


class DetectedLayout(NamedTuple):
    """What a folder looks like."""

    layout: str  # a line for people
    recipe: str  # of recipes/, without its ending
    data: dict[str, str | None]  # values of params.yaml's section `data`; root not among them
    root: Path  # the folder itself, or the one inside it that has the layout
    has: list[str]  # how it is read, as lines for people
    unused: list[str]  # what else is there, and is not


def guess(folder: Path) -> DetectedLayout:
    """Recognize a folder's layout by its names, and by the head of its table; opens no image.

    Raises InputError if it is none that a source can read, and says what is missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the one that holds your images")
    if found := _voc(folder) or _coco(folder):
        return found
    images = find_files(folder).images
    if found := _table(folder, len(images)):
        return found
    expected = (
        "expected tags.csv with the columns image and tags (a.jpg,cat|dog), a COCO JSON file, or the layout of PASCAL "
        f"VOC ({', '.join(VOC_FOLDERS)})"
    )
    problems = [f"{folder}: {len(images)} images, but no tags; {expected}"]
    for path in _tables(folder):
        names = read_cells(path, images=len(images)).names
        hint = "; of Label Studio? export JSON-MIN or CSV" if {"annotations", "data"} <= {*names} else ""
        problems.append(f"{path.name} has the columns {', '.join(names)}{hint}")
    for place in _inside(folder):
        with suppress(InputError):
            if found := _coco(place) or _table(place, len(images)):
                problems.append(f"{place}: {found.layout}; name that folder instead")
    folders = sorted({PurePosixPath(image).parent.name for image in images} - {"", "images"})
    said = "folders hold the images; their names are not taken for tags, a table can say so"
    problems += warn_of(said, folders) if len(folders) > 1 else []
    raise InputError([*problems, *_left_over(folder, {*_tables(folder)})])


def _left_over(folder: Path, used: set[Path], *, besides: Container[str] = ()) -> list[str]:
    """What lies in a folder and is neither used nor an image, by the endings of its names: lines for people.

    besides: folders that the layout knows.
    """
    by_ending: dict[str, list[str]] = defaultdict(list)
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in besides)
        for name in sorted(files):
            path, ending = Path(place, name), PurePosixPath(name).suffix.lower()
            if path not in used and ending not in ENDINGS and not name.lower().startswith((".", *NO_DATA)):
                by_ending[ending].append(path.relative_to(folder).as_posix())
    lines = []
    for ending, names in sorted(by_ending.items()):
        hint = f" ({HINTS[ending]})" if ending in HINTS else ""
        lines += warn_of(f"{ending or 'other'} files are not used{hint}", names)
    return lines


def params_text(recipe: Path, data: dict[str, str | None]) -> str:
    """A recipe's text, comments included, with other values in its section `data`. Raises InputError without one."""
    if not recipe.is_file():
        others = ", ".join(sorted(path.stem for path in recipe.parent.glob("*.yaml"))) or "none"
        raise InputError(f"{recipe}: no such recipe; expected, in the project's root, one of those there: {others}")
    text = read_text(recipe)
    for key, value in data.items():
        text = _changed(text, f"data.{key}", lambda _, value=value: _scalar(value))
    return text


def fitted(params: str, images: int, *, sized_for: int) -> str:
    """Params text whose trainings, sized for `sized_for` images, are sized for a set of `images`, each change noted.

    The time that training takes goes with the number of images: half of it by the steps, which go with its square root,
    and, for fewer images than the recipe's, half of it by the pixels, so `data.size` with its fourth root. Steps stay
    within STEPS_RANGE, the size between SIZE_MIN and the recipe's, on both grids.
    """
    factor = min(max(sqrt(images / sized_for), STEPS_RANGE[0]), STEPS_RANGE[1])
    note = f"dsrg init: for {images} training image{'s' * (images > 1)}, recipe "
    for key in STEPS:
        params = _changed(params, key, lambda old: str(max(min(int(old), 1), round(int(old) * factor))), note=note)
    smaller = min(1.0, factor) ** 0.5

    def size(old: str) -> str:
        return str(min(int(old), max(SIZE_MIN, _on_grid(int(old) * smaller))))

    return _changed(params, "data.size", size, note=note)


def _on_grid(pixels: float) -> int:
    """The nearest size whose corners are cells at stride 8 and 16."""
    return 16 * round((pixels - 1) / 16) + 1


def _changed(params: str, key: str, change: Callable[[str], str], *, note: str = "") -> str:
    """Params text with another value at a dotted key; `note` and the old one in front of its comment, if there is one.

    Raises InputError where there is no such key.
    """
    start, end = 0, len(params)
    for depth, name in enumerate(key.split(".")):
        found = re.compile(rf"^{'  ' * depth}{name}:", re.MULTILINE).search(params, start, end)
        if found is None:
            raise InputError(f"the recipe has no {key}; restore the file")
        start = found.end()
        after = re.compile(rf"^ {{0,{2 * depth}}}[^ #\n]", re.MULTILINE).search(params, start, end)
        end = after.start() if after else end
    line, newline, rest = params[start:].partition("\n")
    old, comment = re.fullmatch(r" *(.*?)(?:  # (.*))?", line).groups(default="")
    if (new := change(old)) == old:
        return params
    said = "; ".join(part for part in (note and f"{note}{old}", comment) if part)
    return f"{params[:start]} {new}{said and f'  # {said}'}{newline}{rest}"


def _scalar(value: str | None) -> str:
    """A value as YAML; text is quoted, as in JSON, unless it is a plain word or path."""
    plain = value is not None and re.fullmatch(r"[A-Za-z/_][\w./-]*", value, re.ASCII)
    return value if plain and value.lower() not in ("null", "true", "false") else json.dumps(value, ensure_ascii=False)


class DataSummary(NamedTuple):
    """What data has and lacks, as lines for people, and its number of training images."""

    has: list[str]
    lacks: list[str]  # what is wrong or missing
    notes: list[str]  # what is odd
    images: int


def first_look(params: str, root: Path) -> DataSummary:
    """What there is of the data that a params file describes; opens no image."""
    data = YAML(typ="safe", pure=True).load(params)["data"]
    keys = ("source", "train", "val", "tags", "separator", "val_share", "split_seed")
    read = scan(root, **{key: data[key] for key in keys})
    images = Counter(record.split for record in read.records)
    masks = Counter(record.split for record in read.records if record.mask is not None)
    drawn = ", drawn at random (data.val_share)" if data["val"] is None else ""
    has = [f"{images['train']} images to train on, {images['val']} to evaluate on{drawn}"]
    if read.classes:
        has.append(f"{len(read.classes)} classes: {few(read.classes, 10)}")
    if masks:
        has.append(f"masks of {masks['train']} training and {masks['val']} evaluation images")
    lacks = [*read.problems, *(fault.problem for fault in read.faults)]
    if read.records and not masks["val"]:
        lacks.append("no mask of an image to evaluate on, so the networks cannot be scored")
    return DataSummary(has, lacks, read.warnings, images["train"])


def is_own_work(params: Path, recipes: Path) -> bool:
    """Is there a params file that somebody has worked on, so that it differs from every recipe?"""
    return params.exists() and read_text(params) not in map(read_text, recipes.glob("*.yaml"))


def _voc(folder: Path) -> DetectedLayout | None:
    layouts = (
        place
        for place in (folder, *_inside(folder))
        if (place / "JPEGImages").is_dir() and (place / "Annotations").is_dir()
    )
    if (root := next(layouts, None)) is None:
        return None
    lists = [path.stem for path in sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))]
    others = [name for name in lists if name.casefold() not in VAL_LISTS]
    train = _pick(lists, TRAIN_LISTS) or (others[0] if len(others) == 1 else "train")
    val = _pick(lists, VAL_LISTS)
    layout = f"the layout of PASCAL VOC, with the lists {', '.join(lists) or 'none'}"
    unused = warn_of("lists are not used", [name for name in lists if name not in (train, val)])
    besides = {*VOC_FOLDERS, *(path.name for path in root.glob("Segmentation*"))}
    unused += _left_over(root, {root / "classes.txt"}, besides=besides)
    data = {"source": "voc", "train": train, "val": val}
    return DetectedLayout(layout, "voc2012-mobilenet", data, root, _splits_read(train, val), unused)


def _inside(folder: Path) -> list[Path]:
    """The folders in a folder, and those in them."""
    return [*sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))]


def _splits_read(train: str, val: str | None) -> list[str]:
    return [f"{train!r} to train on" + (f", {val!r} to evaluate on" if val is not None else "")]


def _coco(folder: Path) -> DetectedLayout | None:
    paths = (path for pattern in ("*.json", "*/*.json") for path in sorted(folder.glob(pattern)) if _is_coco(path))
    if not (found := {path.relative_to(folder).as_posix(): path for path in paths}):
        return None
    names = [name for name, path in found.items() if "instances" in path.stem] or [*found]
    train = next((name for name in names if "train" in name.casefold()), names[0])
    val = next((name for key in VAL_LISTS for name in names if key in name.casefold() and name != train), None)
    layout = f"COCO's format, with the files {', '.join(names)}"
    unused = warn_of("files in COCO's format are not used", [name for name in found if name not in (train, val)])
    unused += _left_over(folder, {*found.values(), folder / "classes.txt"})
    data = {"source": "coco", "train": train, "val": val}
    return DetectedLayout(layout, "folder", data, folder, _splits_read(train, val), unused)


def _is_coco(path: Path) -> bool:
    """Searched, not read: COCO's own files have half a gigabyte."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return all(content.find(part) >= 0 for part in COCO_PARTS)


def _table(folder: Path, images: int) -> DetectedLayout | None:
    rows = None
    for table in _tables(folder):
        with suppress(NoTable):
            rows = read_table(table, separator="\0", images=images).rows  # the cells of tags whole
            break
    if rows is None:
        return None
    cells = {tag for row in rows for tag in row.tags}
    separator = _separator(cells)
    splits = Counter(row.split for row in rows if row.split)
    lists = [path.stem for path in folder.glob("*.txt")]
    train, val, used = "train", None, {table, folder / "classes.txt"}
    if splits:
        train, val = _split_names(table, splits)
    elif (train_list := _pick(lists, TRAIN_LISTS)) and (val_list := _pick(lists, VAL_LISTS)):
        train, val = f"{train_list}.txt", f"{val_list}.txt"
        used |= {folder / train, folder / val}
    has = _splits_read(train, val) if splits or val else []
    if any(separator in cell for cell in cells):
        has.append(f"tags separated by {separator!r}")
    layout = f"a folder of images with the table {table.name}, {len(rows)} rows"
    data = {"source": "folder", "tags": table.name, "separator": separator, "train": train, "val": val}
    others = [path.name for path in _tables(folder) if path != table]
    unused = warn_of("tables are not used; to use them, join all into one, with a column split", others)
    unused += _left_over(folder, used | {*_tables(folder)}, besides=(MASKS,))
    return DetectedLayout(layout, "folder", data, folder, has, unused)


def _separator(cells: set[str]) -> str:
    """What separates the tags in a table's cells: a usual sign, or what leaves but tags that stand alone elsewhere."""
    cells = {cell for cell in cells if not is_written_out(cell)}
    if sign := next((sign for sign in SEPARATORS if any(sign in cell for cell in cells)), None):
        return sign
    gaps = {composite.gap for composite in composites(cells, cells).values()}
    gap = gaps.pop() if len(gaps) == 1 else None
    if gap and {part.strip() for cell in cells for part in cell.split(gap)} <= cells:
        return gap
    return SEPARATORS[0]


def _split_names(table: Path, splits: Counter[str]) -> tuple[str, str | None]:
    """Which of a table's splits are for training and for evaluation. Raises InputError if none reads as training."""
    names: dict[str | None, list[str]] = defaultdict(list)
    for name, _ in splits.most_common():
        names[split_role(name)].append(name)
    if not names["train"]:
        found = few(f"{name!r} ({count} rows)" for name, count in splits.most_common())
        raise InputError(f"{table}: the splits are {found}; none reads as training: name them train and val")
    return names["train"][0], next(iter([*names["val"], *names["test"]]), None)


def _tables(folder: Path) -> list[Path]:
    """Tables in a folder, by their names: of tags, of labels, for training; of JSON files those that are lists."""
    found = [path for path in sorted(folder.glob("[!.]*")) if path.suffix.lower() in ENDINGS_OF_TABLES]
    found = [path for path in found if path.is_file()]
    found = [path for path in found if path.suffix.lower() != ".json" or _is_list(path)]
    return sorted(found, key=lambda path: [word not in path.stem.lower() for word in ("tag", "label", "train")])


def _is_list(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _pick(names: Iterable[str], wanted: tuple[str, ...]) -> str | None:
    """The first of `wanted` that is among the names, whatever its case."""
    by_folded = {name.casefold(): name for name in names}
    return next((by_folded[name] for name in wanted if name in by_folded), None)
