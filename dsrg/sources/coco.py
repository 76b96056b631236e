"""Data in COCO's format: annotations in JSON files, as COCO itself and most labelling tools write them.

data.train, data.val   a JSON file below the root (train/_annotations.coco.json), or NAME for annotations/NAME.json
its categories         the classes, in the order of their ids: COCO's 80 have ids from 1 to 90. With ROOT/classes.txt,
                       those that it names, in its order; annotations of the others are left out. A category named
                       background is none of them
its images             files beside the JSON file, or in ROOT, ROOT/images, or ROOT/X or ROOT/images/X, where X is what
                       follows the first `_` in the JSON file's name (instances_train2017.json: train2017)
its annotations        the categories of an image are its tags; polygons and run lengths are drawn as its mask
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from difflib import get_close_matches
from functools import partial
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from dsrg.data.classes import MOST_CLASSES, class_problems, is_background, read_classes
from dsrg.data.ids import ListEntry, id_problems, image_ids
from dsrg.errors import InputError
from dsrg.files import read_text
from dsrg.method.grid import UNLABELLED
from dsrg.sources.validation import DrawMask, ImageProblem, Record, Scan, warn_of

PARTS = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}


class Shape(NamedTuple):
    """What one annotation covers."""

    number: int  # of its class
    outline: list | dict  # polygons, or run lengths


class CocoImage(NamedTuple):
    """One image of a JSON file and what is annotated on it."""

    where: str  # file and image
    name: str  # as the file has it
    path: str  # below the root
    split: str
    size: tuple[int, int] | None  # height, width
    tags: tuple[str, ...]
    shapes: list[Shape] | None  # None: not all of its objects have a shape, so there is no mask


def scan_coco(root: str | Path, *, train: str, val: str | None) -> Scan:
    """Read annotations and find images; opens no image and draws no mask yet.

    `train` and `val` name the JSON files; without `val` there are training images only. Never raises for bad data: all
    problems are in the scan.
    """
    root = Path(root)
    parts, problems = {}, []
    for split, name in {"train": train, "val": val}.items():
        if name is not None:
            path = root / (name if name.endswith(".json") else f"annotations/{name}.json")
            try:
                parts[split] = path, _read_json(path, key=f"data.{split}")
            except InputError as error:
                problems += error.problems
    if problems:
        return Scan(root, [], [], problems)
    try:
        classes, number_of = _classes(root, parts)
    except InputError as error:
        return Scan(root, [], [], error.problems)

    pictures, faults = [], []
    warnings = _categories_left_out(parts, classes)
    for split, (path, content) in parts.items():
        own, own_faults, own_warnings = _pictures(root, path, content, split, classes, number_of)
        pictures, faults, warnings = pictures + own, faults + own_faults, warnings + own_warnings
    ids = image_ids({picture.path: picture.name for picture in pictures})
    problems = id_problems(ListEntry(ids[picture.path], picture.split, picture.where) for picture in pictures)
    records = [
        Record(ids[picture.path], picture.split, picture.path, picture.tags, _mask_of(picture)) for picture in pictures
    ]
    return Scan(root, classes, records, problems, faults, warnings)


def _mask_of(picture: CocoImage) -> DrawMask | None:
    if picture.shapes is None:
        return None
    return partial(draw_mask, shapes=picture.shapes, size=picture.size, where=picture.where)


# ---------------------------------------------------------------------------------------------------------------
# The JSON files


def _read_json(path: Path, *, key: str) -> dict:
    """The content of a COCO file, of the right types as far as it is used. Raises InputError with every bad part."""
    if not path.is_file():
        others = sorted(other.relative_to(path.parents[1]).as_posix() for other in path.parent.glob("*.json"))
        raise InputError(f"{path}: no such file; set {key} to one of those there: {', '.join(others) or 'none'}")
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no readable JSON ({error})") from None
    problems = []
    for part, keys in PARTS.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries and part != "annotations":
            problems.append(f"{path}: no list {part!r}; expected COCO's images, annotations and categories")
            continue
        for place, entry in enumerate(entries):
            bad = [name for name, kind in keys.items() if not isinstance(entry, dict) or not _is(entry.get(name), kind)]
            expected = " and ".join(dict.fromkeys("a whole number" if keys[name] is int else "text" for name in bad))
            problems += [f"{path}: {part}[{place}]: no usable {' and '.join(bad)}; expected {expected}"] * bool(bad)
    if not problems:
        numbers = Counter(image["id"] for image in content["images"])
        problems = [f"{path}: {count} images have the id {number}" for number, count in numbers.items() if count > 1]
    if problems:
        raise InputError(problems)
    return content


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _classes(root: Path, parts: dict[str, tuple[Path, dict]]) -> tuple[list[str], dict[int, int]]:
    """Class names, and the class of each category's id: 0 where it is left out. Raises InputError."""
    (path, content), *others = parts.values()
    names = {category["id"]: category["name"] for category in sorted(content["categories"], key=itemgetter("id"))}
    problems = []
    for other, other_content in others:
        of_other = {category["id"]: category["name"] for category in other_content["categories"]}
        problems += [
            f"{other}: category {number} is {of_other.get(number)!r}, but {names.get(number)!r} in {path}; fix one"
            for number in sorted(names.keys() | of_other.keys())
            if of_other.get(number) != names.get(number)
        ]
    listed = root / "classes.txt"
    if listed.exists():
        classes = read_classes(listed)
        problems += [
            f"{listed}: {name!r} is no category of {path}{_did_you_mean(name, names.values())}"
            for name in classes
            if name not in names.values()
        ]
    else:
        names_of_classes = {number: name for number, name in names.items() if not is_background(name)}
        classes = list(names_of_classes.values())
        problems += class_problems(classes, [f"{path}: category {number}" for number in names_of_classes], path)
        if len(classes) > MOST_CLASSES:
            problems.append(f"{listed}: no such file; it can choose up to {MOST_CLASSES} of the categories")
    if problems:
        raise InputError(problems)
    place = {name: number for number, name in enumerate(classes, start=1)}
    return classes, {number: place.get(name, 0) for number, name in names.items()}


def _categories_left_out(parts: dict[str, tuple[Path, dict]], classes: list[str]) -> list[str]:
    path, content = next(iter(parts.values()))
    others = [category["name"] for category in content["categories"] if category["name"] not in classes]
    return warn_of(f"categories of {path.name} are no classes, so what they cover is background", others)


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _pictures(
    root: Path, path: Path, content: dict, split: str, classes: list[str], number_of: dict[int, int]
) -> tuple[list[CocoImage], list[ImageProblem], list[str]]:
    """The images of one file -> those that are there, faults, warnings."""
    drawn = any(_has_shape(annotation) for annotation in content["annotations"])
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    folder = _image_folder(root, path, content["images"])
    pictures, faults = [], []
    for image in content["images"]:
        where = f"{path}: image {image['id']}"
        own = annotations.pop(image["id"], [])
        name = _slashed(image["file_name"])
        inside = not name.startswith("/") and ".." not in PurePosixPath(name).parts
        image_path = f"{folder}/{name}".removeprefix("./")
        unknown = sorted({annotation["category_id"] for annotation in own} - number_of.keys())
        problems = [f"{where}: category {number} is not in its categories" for number in unknown]
        if not inside or not os.path.isfile(root / image_path):
            problems.append(f"{where}: no image {name!r} in {root / folder}; expected its path in that folder")
        if (size := _size(image)) == ():
            problems.append(f"{where}: height and width must be whole numbers above 0")
        if problems:
            faults += [ImageProblem(where, problem) for problem in problems]
            continue
        own = [annotation for annotation in own if number_of[annotation["category_id"]]]
        numbers = sorted({number_of[annotation["category_id"]] for annotation in own})
        shapes = [Shape(number_of[a["category_id"]], a["segmentation"]) for a in own if _has_shape(a)]
        whole = drawn and len(shapes) == len(own)
        tags = tuple(classes[number - 1] for number in numbers)
        pictures.append(CocoImage(where, name, image_path, split, size, tags, shapes if whole else None))
    homeless = sum(map(len, annotations.values()))
    warnings = [f"{path}: {homeless} annotations belong to no image of the file, so are left out"] * bool(homeless)
    return pictures, faults, warnings


def _has_shape(annotation: dict) -> bool:
    return isinstance(annotation.get("segmentation"), list | dict) and bool(annotation["segmentation"])


def _size(image: dict) -> tuple[int, int] | tuple[()] | None:
    """Height and width as the file has them; None if it does not, () if they make no sense."""
    size = image.get("height"), image.get("width")
    if size == (None, None):
        return None
    return size if all(_is(side, int) and side > 0 for side in size) else ()


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _image_folder(root: Path, path: Path, images: list[dict]) -> str:
    """The folder, below the root, in which the first image that is found anywhere lies."""
    named = path.stem.partition("_")[2] or path.stem
    beside = Path(os.path.relpath(path.parent, root)).as_posix()
    places = [beside, ".", "images", named, f"images/{named}"]
    for image in images:
        for place in places:
            if os.path.isfile(root / place / _slashed(image["file_name"])):
                return place
    return "."


# ---------------------------------------------------------------------------------------------------------------
# Masks


def draw_mask(
    height: int, width: int, *, shapes: list[Shape], size: tuple[int, int] | None, where: str
) -> NDArray[np.uint8]:
    """Shapes -> uint8 (height, width) label map; 255, unlabelled, where shapes of two classes overlap.

    Groups ("iscrowd") are drawn as their class. Raises InputError, naming `where`, if the image is not of the annotated
    `size` (height, width), or a shape is malformed.
    """
    if size and size != (height, width):
        stated = f"{size[1]} x {size[0]} pixels are annotated, but the image has {width} x {height}"
        raise InputError(f"{where}: {stated} (as turned by its EXIF orientation); they must be of one size")
    labels = np.zeros((height, width), np.uint8)
    problems = []
    for place, shape in enumerate(shapes, start=1):
        try:
            covered = _covered(shape.outline, height, width)
        except (ValueError, TypeError, OverflowError, KeyError, IndexError) as error:
            problems.append(f"{where}: shape {place} of {len(shapes)}: {error}; fix or remove it")
            continue
        disputed = covered & (labels != 0) & (labels != shape.number)
        labels[covered] = shape.number
        labels[disputed] = UNLABELLED
    if problems:
        raise InputError(problems)
    return labels


def _covered(outline: list | dict, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels within polygons, by COCO's own rule for borders, or of run lengths -> bool (height, width)."""
    if isinstance(outline, dict):
        return _unrolled(outline, height, width)
    polygons = [np.array(polygon, np.float64) for polygon in outline]
    for polygon in polygons:
        if polygon.ndim != 1 or polygon.size % 2:
            raise ValueError("expected polygons [x, y, x, y, ...]")
        points = polygon.reshape(-1, 2)
        sides = np.array([width, height])
        if not ((points >= -sides) & (points <= 2 * sides)).all():  # drawing takes memory for each pixel of an outline
            raise ValueError(f"a polygon lies far outside of {width} x {height} pixels, or is not finite")
    areas = [polygon.tolist() for polygon in polygons if polygon.size >= 6]  # fewer than three points cover nothing
    if not areas:
        return np.zeros((height, width), bool)
    drawn = coco_mask.merge(coco_mask.frPyObjects(areas, height, width))
    return _unrolled(drawn | {"counts": drawn["counts"].decode()}, height, width)


def _unrolled(runs: dict, height: int, width: int) -> NDArray[np.bool_]:
    """Run lengths, column by column, of pixels out, in, out, ... -> bool (height, width).

    Not by pycocotools, which fills what the runs leave open with whatever was in memory.
    """
    if list(runs["size"]) != [height, width]:
        raise ValueError(f"run lengths for {runs['size']} (height, width), but the image has [{height}, {width}]")
    counts = runs["counts"]
    counts = np.array(_unpacked(counts) if isinstance(counts, str) else counts, np.int64)
    pixels = height * width
    if counts.ndim != 1 or (counts < 0).any() or (counts > pixels).any() or counts.sum() != pixels:
        raise ValueError(f"run lengths must cover {height} x {width} pixels, once each")
    return np.repeat(np.arange(counts.size) % 2 == 1, counts).reshape(width, height).T


def _unpacked(text: str) -> list[int]:
    """Run lengths of COCO's compressed form: six bits a character from `0` on, five of a number and one for "goes on".

    Numbers are signed, lowest bits first; from the fourth on they are differences from the one before the last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("run lengths with a character that is none of COCO's")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths end within a number")
    return counts
