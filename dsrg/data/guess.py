"""A first params.yaml for somebody's own folder: which layout it has, and which values of `data` that means."""

import json
import mmap
import re
from collections import Counter
from collections.abc import Callable, Container
from math import sqrt
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML

from dsrg.data.folder import find_files, read_table, table_columns, table_text
from dsrg.data.sources import scan
from dsrg.errors import InputError
from dsrg.files import read_text

TABLES = (".csv", ".tsv", ".jsonl")
COCO_PARTS = (b'"images"', b'"annotations"', b'"categories"')
SEPARATORS = "|;,"  # of tags, the least likely in a name first
TRAIN_NAMES = ("trainaug", "train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")
FROM_SCRATCH = "folder-scratch"  # the recipe for folders that needs no weights
SIZED_FOR = {"folder": 642, FROM_SCRATCH: 400}  # training images that the trainings of these recipes were sized with
STEPS = ("cam.steps", "grow.start", "dsrg.steps", "retrain.steps")
WARMUPS = ("cam.optimiser.warmup", "dsrg.optimiser.warmup", "retrain.optimiser.warmup")
STEPS_RANGE = 0.25, 2.0  # times a recipe's: fewer steps learn too little, more bring little
SIZE_MIN = 145  # pixels, the demo's


class Guess(NamedTuple):
    """What a folder looks like."""

    layout: str  # a line for people
    recipe: str  # of recipes/, without its ending
    data: dict[str, str | None]  # values of params.yaml's section `data`; root not among them
    root: Path  # the folder itself, or the one inside it that has the layout


def guess(folder: Path) -> Guess:
    """Recognise a folder's layout by its names, and by the head of its table; opens no image.

    Raises InputError if it is none that a source can read, and says what is missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the one that holds your images")
    if found := _voc(folder) or _coco(folder):
        return found
    images = len(find_files(folder).images)
    if found := _table(folder, images):
        return found
    tables = [f"{path.name} has the columns {', '.join(_columns(path, images))}" for path in _tables(folder)]
    raise InputError(
        f"{folder}: {images} images, but no tags; expected tags.csv with the columns image and tags (a.jpg,cat|dog), "
        f"a COCO JSON file, or the layout of PASCAL VOC{''.join(f'; {table}' for table in tables)}"
    )


def params_text(recipe: Path, data: dict[str, str | None]) -> str:
    """A recipe's text, comments included, with other values in its section `data`. Raises InputError without one."""
    if not recipe.is_file():
        others = ", ".join(sorted(path.stem for path in recipe.parent.glob("*.yaml"))) or "none"
        raise InputError(f"{recipe}: no such recipe; expected, in the project's root, one of those there: {others}")
    text = read_text(recipe)
    if not (section := re.search(r"^data:.*\n(?:  .*\n)+", text, re.MULTILINE)):
        raise InputError(f"{recipe}: no section data; restore the file")
    lines = section[0]
    for key, value in data.items():
        line = f"  {key}: {_scalar(value)}"
        lines, count = re.subn(rf"^  {key}:.*?(?=  #|$)", lambda _, line=line: line, lines, flags=re.MULTILINE)
        lines += "" if count else f"{line}\n"
    return text[: section.start()] + lines + text[section.end() :]


def fitted(params: str, images: int, *, sized_for: int) -> str:
    """Params text whose trainings, sized for `sized_for` images, are sized for a set of `images`, each change noted.

    The time that training takes goes with the number of images: half of it by the steps, which go with its square root,
    and, for fewer images than the recipe's, half of it by the pixels, so `data.size` with its fourth root. Steps stay
    within STEPS_RANGE, the size between SIZE_MIN and the recipe's, on both grids.
    """
    factor = min(max(sqrt(images / sized_for), STEPS_RANGE[0]), STEPS_RANGE[1])
    note = f"dsrg init: for {images} training image{'s' * (images > 1)}, recipe "
    for key in (*STEPS, *WARMUPS):
        params = _changed(params, key, lambda steps: max(min(steps, 1), round(steps * factor)), note=note)
    smaller = min(1.0, factor) ** 0.5
    return _changed(params, "data.size", lambda size: min(size, max(SIZE_MIN, _on_grid(size * smaller))), note=note)


def _on_grid(pixels: float) -> int:
    """The nearest size whose corners are cells at stride 8 and 16."""
    return 16 * round((pixels - 1) / 16) + 1


def _changed(params: str, key: str, change: Callable[[int], int], *, note: str) -> str:
    """Params text with another whole number at a dotted key, and a note with the old one in front of its comment."""
    start, end = 0, len(params)
    for depth, name in enumerate(key.split(".")):
        found = re.compile(rf"^{'  ' * depth}{name}:", re.MULTILINE).search(params, start, end)
        if found is None:
            raise InputError(f"the recipe has no {key}; restore the file")
        start = found.end()
        after = re.compile(rf"^ {{0,{2 * depth}}}[^ #\n]", re.MULTILINE).search(params, start, end)
        end = after.start() if after else end
    line, newline, rest = params[start:].partition("\n")
    value, comment = re.fullmatch(r" *(\d+)(?:  # (.*))?", line).groups(default="")
    if (new := change(int(value))) == int(value):
        return params
    return f"{params[:start]} {new}  # {note}{value}{'; ' if comment else ''}{comment}{newline}{rest}"


def _scalar(value: str | None) -> str:
    """A value as YAML; text is quoted, as in JSON, unless it is a plain word or path."""
    plain = value is not None and re.fullmatch(r"[A-Za-z/_][\w./-]*", value, re.ASCII)
    return value if plain and value.lower() not in ("null", "true", "false") else json.dumps(value, ensure_ascii=False)


class Look(NamedTuple):
    """What data has and lacks, as lines for people, and its number of training images."""

    has: list[str]
    lacks: list[str]
    images: int


def first_look(params: str, root: Path) -> Look:
    """What there is of the data that a params file describes; opens no image."""
    data = YAML(typ="safe", pure=True).load(params)["data"]
    keys = ("source", "train", "val", "tags", "separator", "val_share", "split_seed")
    read = scan(root, **{key: data[key] for key in keys})
    images = Counter(record.split for record in read.records)
    masks = Counter(record.split for record in read.records if record.mask is not None)
    drawn = ", drawn at random (data.val_share)" if data["val"] is None else ""
    has = [f"{images['train']} images to train on, {images['val']} to evaluate on{drawn}"]
    if read.classes:
        has.append(f"{len(read.classes)} classes: {', '.join(read.classes[:10])}{', ...' if read.classes[10:] else ''}")
    if masks:
        has.append(f"masks of {masks['train']} training and {masks['val']} evaluation images")
    lacks = [*read.problems, *(fault.problem for fault in read.faults), *read.warnings]
    if read.records and not masks["val"]:
        lacks.append("no mask of an image to evaluate on, so the networks cannot be scored")
    return Look(has, lacks, images["train"])


def is_own_work(params: Path, recipes: Path) -> bool:
    """Is there a params file that somebody has worked on, so that it differs from every recipe?"""
    if not params.exists():
        return False
    content = read_text(params)
    return all(read_text(recipe) != content for recipe in recipes.glob("*.yaml"))


def _voc(folder: Path) -> Guess | None:
    inside = [folder, *sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))]
    root = next((place for place in inside if (place / "JPEGImages").is_dir()), None)
    if root is None:
        return None
    lists = [path.stem for path in sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))]
    train, val = _pick(lists, TRAIN_NAMES) or "train", _pick(lists, VAL_NAMES)
    layout = f"the layout of PASCAL VOC, with the lists {', '.join(lists) or 'none'}"
    return Guess(layout, "voc2012-mobilenet", {"source": "voc", "train": train, "val": val}, root)


def _coco(folder: Path) -> Guess | None:
    files = [path for pattern in ("*.json", "*/*.json") for path in sorted(folder.glob(pattern)) if _is_coco(path)]
    if not files:
        return None
    files = [path for path in files if "instances" in path.stem] or files
    names = [path.relative_to(folder).as_posix() for path in files]
    train = next((name for name in names if "train" in name), names[0])
    val = next((name for key in VAL_NAMES for name in names if key in name and name != train), None)
    layout = f"COCO's format, with the files {', '.join(names)}"
    return Guess(layout, "folder", {"source": "coco", "train": train, "val": val}, folder)


def _is_coco(path: Path) -> bool:
    """Searched, not read: COCO's own files have half a gigabyte."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return all(content.find(part) >= 0 for part in COCO_PARTS)


def _table(folder: Path, images: int) -> Guess | None:
    wanted = {"image", "tags"}
    usable = (
        path for path in _tables(folder) if path.suffix.lower() == ".jsonl" or wanted <= {*_columns(path, images)}
    )
    if (table := next(usable, None)) is None:
        return None
    rows = read_table(table, separator="\0", images=images)  # cells whole
    separator = next((sign for sign in SEPARATORS if any(sign in tag for row in rows for tag in row.tags)), "|")
    splits = Counter(row.split for row in rows if row.split)
    lists = [path.stem for path in folder.glob("*.txt")]
    train, val = "train", None
    if splits:
        train = _pick(splits, TRAIN_NAMES) or splits.most_common(1)[0][0]
        val = _pick([name for name in splits if name != train], VAL_NAMES)
    elif _pick(lists, TRAIN_NAMES) and _pick(lists, VAL_NAMES):
        train, val = f"{_pick(lists, TRAIN_NAMES)}.txt", f"{_pick(lists, VAL_NAMES)}.txt"
    layout = f"a folder of images with the table {table.name}, {len(rows)} rows"
    data = {"source": "folder", "tags": table.name, "separator": separator, "train": train, "val": val}
    return Guess(layout, "folder", data, folder)


def _tables(folder: Path) -> list[Path]:
    """Tables in a folder, the ones named after tags first."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in TABLES and path.is_file()]
    return sorted(found, key=lambda path: "tag" not in path.stem.lower())


def _columns(path: Path, images: int) -> list[str]:
    return table_columns(path, table_text(path, images=images))[0]


def _pick(names: Container[str], wanted: tuple[str, ...]) -> str | None:
    """The first of `wanted` that is among the names."""
    return next((name for name in wanted if name in names), None)
