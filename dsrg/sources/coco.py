"""Data in COCO's format: annotations in JSON files, as COCO itself and most labeling tools write them.

data.train, data.val   a JSON file below the root (train/_annotations.coco.json), or NAME for annotations/NAME.json
its categories         the classes, in the order of their ids: COCO's 80 have ids from 1 to 90. With ROOT/classes.txt,
                       those that it names, in its order; annotations of the others are left out. A category named
                       background is none of them
its images             files beside the JSON file, or in ROOT, ROOT/images, or ROOT/X or ROOT/images/X, where X is what
                       follows the first `_` in the JSON file's name (instances_train2017.json: train2017); named as
                       in a table of tags (sources.folder)
its annotations        the categories of an image are its tags; polygons and run lengths are drawn as its mask
"""

import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pydantic import Field, TypeAdapter, ValidationError

from dsrg.data.classes import MOST_CLASSES, class_problems, is_background, read_classes
from dsrg.data.ids import ListEntry, id_problems, image_ids, normal
from dsrg.errors import InputError, nearest
from dsrg.files import read_text
from dsrg.method.grid import UNLABELED
from dsrg.sources.folder import Names, find_files, find_image, warn_of_elsewhere
from dsrg.sources.validation import ImageProblem, Record, Scan


@dataclass(slots=True)
class Image:
    id: int
    file_name: str
    height: Any = None
    width: Any = None

    @property
    def size(self) -> tuple[int, int] | tuple[()] | None:
        """Height and width as the file has them; None if it does not, () if they make no sense."""
        size = self.height, self.width
        if size == (None, None):
            return None
        return size if all(type(side) in (int, float) and side > 0 and side % 1 == 0 for side in size) else ()


@dataclass(slots=True)
class Annotation:
    image_id: int
    category_id: int
    segmentation: Any = None

    @property
    def has_shape(self) -> bool:
        return isinstance(self.segmentation, list | dict) and bool(self.segmentation)


@dataclass(slots=True)
class Category:
    id: int
    name: str


@dataclass(slots=True)
class CocoFile:
    """As much of a COCO file as is used."""

    images: Annotated[list[Image], Field(min_length=1)]
    annotations: list[Annotation]
    categories: Annotated[list[Category], Field(min_length=1)]

    @property
    def names(self) -> dict[int, str]:
        """Categories by id, in the order of ids."""
        return {category.id: normal(category.name) for category in sorted(self.categories, key=attrgetter("id"))}


class Shape(NamedTuple):
    """What one annotation covers."""

    number: int  # of its class
    outline: list | dict  # polygons, or run lengths


def scan_coco(root: str | Path, *, train: str, val: str | None) -> Scan:
    """Read annotations and find images; opens no image and draws no mask yet.

    `train` and `val` name the JSON files; without `val` there are training images only. Never raises for bad data: all
    problems are in the scan.
    """
    scan = Scan(Path(root))
    files: dict[str, tuple[Path, CocoFile]] = {}
    for split, name in {"train": train, "val": val}.items():
        if name is not None:
            path = scan.root / (name if name.endswith(".json") else f"annotations/{name}.json")
            with scan.collecting():
                files[split] = path, _read_json(path, key=f"data.{split}")
    if not scan.problems:
        with scan.collecting():
            scan.classes = _classes(scan.root, [*files.values()])
    if scan.problems:
        return scan
    first, content = next(iter(files.values()))
    others = [name for name in content.names.values() if name not in scan.classes]
    scan.warn(f"categories of {first.name} are no classes, so what they cover is background", others)
    read = [_records(scan, path, content, split) for split, (path, content) in files.items()]
    found = [one for own, _ in read for one in own]
    named = {image for _, there in read for image in there if there[image]}
    unused = {image for _, there in read for image in there} - named
    scan.warn("images are in none of the files, so not used", sorted(unused))
    ids = image_ids({record.image: name for record, name in found})
    listed = (ListEntry(ids[record.image], record.split, record.id) for record, _ in found)
    scan.problems += id_problems(listed)
    scan.records = [record._replace(id=ids[record.image]) for record, _ in found]
    return scan


# The JSON files


@cache
def _validator() -> TypeAdapter:
    return TypeAdapter(CocoFile)


def _read_json(path: Path, *, key: str) -> CocoFile:
    """The content of a COCO file. Raises InputError with every bad part."""
    if not path.is_file():
        others = sorted(other.relative_to(path.parents[1]).as_posix() for other in path.parent.glob("*.json"))
        raise InputError(f"{path}: no such file; set {key} to one of those there: {', '.join(others) or 'none'}")
    try:
        content = _validator().validate_json(read_text(path), strict=True)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(problem)}" for problem in error.errors(include_url=False)) from None
    twice = [
        f"{path}: {count} {what} have the id {number}"
        for what, entries in {"images": content.images, "categories": content.categories}.items()
        for number, count in Counter(entry.id for entry in entries).items()
        if count > 1
    ]
    if twice:
        raise InputError(twice)
    return content


EXPECTED = {"int_type": "expected a whole number", "string_type": "expected text", "missing": "missing"}  # by pydantic


def _explain(problem: dict) -> str:
    """`images[3].file_name: expected text`"""
    if problem["type"] == "json_invalid":
        return f"no readable JSON ({problem['ctx']['error']})"
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).removeprefix(".")
    hint = "" if "[" in place else "; expected COCO's images, annotations and categories"
    return f"{place}{': ' if place else ''}{EXPECTED.get(problem['type'], problem['msg'])}{hint}"


def _classes(root: Path, files: list[tuple[Path, CocoFile]]) -> list[str]:
    """Class names. Raises InputError."""
    (path, content), *others = files
    names, problems = content.names, []
    for other, other_content in others:  # which may lack some
        problems += [
            f"{other}: category {number} is {name!r}, but {names.get(number, 'none')!r} in {path}; fix one"
            for number, name in other_content.names.items()
            if name != names.get(number)
        ]
    listed = root / "classes.txt"
    if listed.exists():
        classes = read_classes(listed)
        for name in classes:
            if name not in names.values():
                near = nearest(name, names.values())
                hint = f"; did you mean {near!r}?" if near else ""
                problems.append(f"{listed}: {name!r} is no category of {path}{hint}")
    else:
        of_classes = {number: name for number, name in names.items() if not is_background(name)}
        classes = list(of_classes.values())
        problems += class_problems(classes, [f"{path}: category {number}" for number in of_classes], path)
        if len(classes) > MOST_CLASSES:
            problems.append(f"{listed}: no such file; it can choose up to {MOST_CLASSES} of the categories")
    if problems:
        raise InputError(problems)
    return classes


def _records(scan: Scan, path: Path, content: CocoFile, split: str) -> tuple[list[tuple[Record, str]], dict[str, bool]]:
    """The images of one file that are there, their place in it for an id, and their names; all images beside
    them, and whether the file names them.
    """
    place = {name: number for number, name in enumerate(scan.classes, start=1)}
    number_of = {number: place.get(name, 0) for number, name in content.names.items()}  # 0: left out
    drawn = any(annotation.has_shape for annotation in content.annotations)
    annotations = defaultdict(list)
    for annotation in content.annotations:
        annotations[annotation.image_id].append(annotation)
    folder = _image_folder(scan.root, path, content.images)
    files = find_files(scan.root / folder, none_is_fine=True)
    there = {PurePosixPath(folder, name).as_posix(): False for name in files.images}
    names, found, elsewhere = Names(files.images, others=files.others), [], []
    for image in content.images:
        where = f"{path}: image {image.id}"
        own = annotations.pop(image.id, [])
        name = find_image(scan, names, image.file_name, where)
        unknown = sorted({annotation.category_id for annotation in own} - number_of.keys())
        problems = [f"category {number} is not in its categories" for number in unknown]
        if (size := image.size) == ():
            problems.append("height and width must be whole numbers above 0")
        scan.faults += [ImageProblem(where, f"{where}: {problem}") for problem in problems]
        if name is None:
            continue
        image_path = PurePosixPath(folder, name).as_posix()
        there[image_path] = True
        elsewhere.append((image.file_name, image_path))
        if problems:
            continue
        own = [annotation for annotation in own if number_of[annotation.category_id]]
        numbers = sorted({number_of[annotation.category_id] for annotation in own})
        shapes = [Shape(number_of[one.category_id], one.segmentation) for one in own if one.has_shape]
        mask = partial(draw_mask, shapes=shapes, size=size, where=where)
        whole = drawn and len(shapes) == len(own)
        tags = tuple(scan.classes[number - 1] for number in numbers)
        found.append((Record(where, split, image_path, tags, mask if whole else None), name))
    warn_of_elsewhere(scan, elsewhere)
    if homeless := sum(map(len, annotations.values())):
        scan.warnings.append(f"{path}: {homeless} annotations belong to no image of the file, so are left out")
    return found, there


def _image_folder(root: Path, path: Path, images: list[Image]) -> str:
    """The folder, below the root, in which the first image that is found anywhere lies."""
    named = path.stem.partition("_")[2] or path.stem
    beside = Path(os.path.relpath(path.parent, root)).as_posix()
    places = [beside, ".", "images", named, f"images/{named}"]
    names = [name for image in images if ".." not in (name := image.file_name.replace("\\", "/")).split("/")]
    found = (place for name in names for place in places if os.path.isfile(f"{root}/{place}/{name}"))
    return next(found, ".")


# Masks


def draw_mask(
    height: int, width: int, *, shapes: list[Shape], size: tuple[int, int] | None, where: str
) -> NDArray[np.uint8]:
    """Shapes -> uint8 (height, width) label map; 255, unlabeled, where shapes of two classes overlap.

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
        labels[disputed] = UNLABELED
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
