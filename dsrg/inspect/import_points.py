"""Points and strokes that people have set elsewhere: exports of Label Studio, CVAT and labelme as rows of points.csv.

    Label Studio  JSON or JSON-MIN: key points; brushes, as discs within what is painted
    CVAT          "CVAT for images 1.1" (XML): points, each one by itself; polylines as strokes
    labelme       a JSON file an image: point; line and linestrip as strokes

Other shapes are left out and counted. Images are found by their names as in a table of tags; one that was drawn on at
another size, but of the same shape, is scaled.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dsrg.data.images import ENDINGS
from dsrg.errors import InputError
from dsrg.files import parse_xml, read_text
from dsrg.sources.points import PointReader, PointRow
from dsrg.sources.validation import warn_of

FILE_MAX = 256 * 2**20  # bytes of an export: all of it is in memory, several times
BRUSH_MAX = 2**26  # pixels of a painted image, 4 bytes each
EXPECTED = "expected an export of Label Studio (JSON), CVAT (XML, `CVAT for images 1.1`) or labelme (JSON)"
Path2D = list[tuple[float, float]]


class Shape(NamedTuple):
    """One mark as a tool wrote it.

    path: x and y; counted in `unit`, so that (0, 0) and `unit` are the image's corners, or in its pixels where that is
    None. radius: pixels of an image of the size `size` (width, height); None: to be chosen. size: that of the image it
    was drawn on, or None.
    """

    where: str
    image: str
    label: str
    path: Path2D
    unit: tuple[float, float] | None = None
    size: tuple[float, float] | None = None
    radius: float | None = None


@dataclass
class Export:
    """What files hold: marks, what is wrong, what is left out by kind, and images' paths by their names elsewhere."""

    shapes: list[Shape] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    elsewhere: dict[str, str] = field(default_factory=dict)

    def notes(self) -> list[str]:
        kinds = [f"{count} {kind} left out: no points or strokes of a person" for kind, count in self.left_out.items()]
        named = [f"{name} = {path}" for name, path in self.elsewhere.items()]
        return kinds + warn_of("images are named by a path or address elsewhere, and found by its end", named)


def read_exports(paths: Iterable[Path]) -> Export:
    """All marks in files, or in the JSON and XML files of folders. Whatever is wrong is among the problems."""
    found = Export()
    for path in paths:
        inside = (one for one in path.rglob("*") if one.suffix.lower() in (".json", ".xml"))
        files = sorted(inside) if path.is_dir() else [path]
        if not files:
            found.problems.append(f"{path}: no JSON or XML file in this folder; {EXPECTED}")
        for file in files:
            try:
                _read_export(file, found)
            except InputError as error:
                found.problems += error.problems
    return found


def point_rows(export: Export, reader: PointReader, *, radius: float = 0) -> list[PointRow]:
    """Marks as rows of a table for the images of the reader, strokes numbered from 1 on; problems are noted.

    radius: of marks that have none of their own, pixels.
    """
    rows = []
    for number, shape in enumerate(export.shapes, 1):
        image_id = _image_id(shape.image, reader)
        if image_id is None:  # whoever reads the rows says what is wrong
            rows.append(PointRow(shape.where, shape.image, "0", "0", shape.label, "", ""))
            continue
        row = reader.row[image_id]
        if shape.image not in (image_id, reader.index.paths[row]):
            export.elsewhere[shape.image] = reader.index.paths[row]
        own = int(reader.index.widths[row]), int(reader.index.heights[row])
        if shape.size and not _same_shape(shape.size, own):
            drawn, here = (f"{width:g} x {height:g}" for width, height in (shape.size, own))
            what = f"drawn on {drawn} pixels, but {image_id} has {here} (as turned by its EXIF orientation)"
            export.problems.append(f"{shape.where}: {what}; draw on that image")
            continue
        across, down = (a / b for a, b in zip(own, shape.unit or shape.size or own, strict=True))
        wide = radius if shape.radius is None else shape.radius * own[0] / (shape.size or own)[0]
        stroke = str(number) if len(shape.path) > 1 else ""
        for x, y in shape.path:
            cells = _text(x * across), _text(y * down), shape.label, _text(wide) if wide else "", stroke
            rows.append(PointRow(shape.where, image_id, *cells))
    return rows


def _image_id(name: str, reader: PointReader) -> str | None:
    """The id of an image by its name, else by the end of its name, as of a path elsewhere."""
    found = (reader.find(one) for one in (name, f"/{name}"))
    return next((image_id for image_id in found if isinstance(image_id, str)), None)


def _same_shape(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two sizes are those of one image, but for its scale and rounding."""
    (width, height), (other_width, other_height) = one, other
    return abs(height * other_width - other_height * width) <= max(*one, *other)


def _text(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _read_export(path: Path, found: Export) -> None:
    """Add one file's. Raises InputError for what is no export at all."""
    if path.suffix.lower() == ".xml":
        return _read_cvat(path, found)
    try:
        content = json.loads(read_text(path, most=FILE_MAX))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no readable JSON ({error}); {EXPECTED}") from None
    if isinstance(content, dict) and "shapes" in content:
        return _read_labelme(path, content, found)
    tasks = content if isinstance(content, list) else [content]
    if not all(isinstance(task, dict) and ("data" in task or "image" in task) for task in tasks):
        raise InputError(f"{path}: neither tasks of Label Studio nor shapes of labelme; {EXPECTED}")
    for number, task in enumerate(tasks, 1):
        where = f"{path}: task {number}"
        try:
            _read_task(where, task, found)
        except ValueError as error:
            found.problems.append(f"{where}: {error}")


# ---------------------------------------------------------------------------------------------------------------
# labelme


def _read_labelme(path: Path, content: dict, found: Export) -> None:
    image, shapes = content.get("imagePath"), content["shapes"]
    if not isinstance(image, str) or not image or not isinstance(shapes, list):
        raise InputError(f"{path}: expected imagePath and a list of shapes, as labelme writes them")
    image = os.path.abspath(path.parent / image.replace("\\", "/"))  # it is relative to the file; found by its end
    size = _size(content.get("imageWidth"), content.get("imageHeight"))
    for number, shape in enumerate(shapes, 1):
        where = f"{path}: shape {number}"
        kind = shape.get("shape_type") if isinstance(shape, dict) else None
        if kind not in ("point", "line", "linestrip"):
            found.left_out[f"{kind} of labelme" if isinstance(kind, str) else "shapes without a type"] += 1
            continue
        path2d = _path(shape.get("points"))
        if path2d is None or not isinstance(shape.get("label"), str):
            found.problems.append(f"{where}: expected a label and points [[x, y], ...], both numbers")
            continue
        paths = [[place] for place in path2d] if kind == "point" else [path2d]
        found.shapes += [Shape(where, image, shape["label"], one, size, size) for one in paths]


# ---------------------------------------------------------------------------------------------------------------
# CVAT


def _read_cvat(path: Path, found: Export) -> None:
    try:
        annotations = parse_xml(path, most=FILE_MAX)
    except ValueError as error:
        raise InputError(f"{path}: no readable XML ({error}); {EXPECTED}") from None
    if annotations.tag != "annotations" or annotations.find("track") is not None:
        what = "tracks of a video" if annotations.tag == "annotations" else f"<{annotations.tag}>"
        raise InputError(f"{path}: {what}; export the task as `CVAT for images 1.1`")
    for image in annotations.iter("image"):
        name = image.get("name", "")
        size = _size(image.get("width"), image.get("height"))
        for number, shape in enumerate(image, 1):
            where = f"{path}: image {name!r}, shape {number}"
            if shape.tag not in ("points", "polyline"):
                found.left_out[f"{shape.tag} of CVAT"] += 1
                continue
            path2d = _path([pair.split(",") for pair in shape.get("points", "").split(";")])
            if path2d is None or not shape.get("label"):
                found.problems.append(f"{where}: expected a label and points as 12.5,30.0;14.0,31.5")
                continue
            paths = [[place] for place in path2d] if shape.tag == "points" else [path2d]
            found.shapes += [Shape(where, name, shape.get("label"), one, size, size) for one in paths]


# ---------------------------------------------------------------------------------------------------------------
# Label Studio


def _read_task(where: str, task: dict, found: Export) -> None:
    """Add one task's. Raises ValueError for what is no task."""
    results = _whole_results(task, found) if "data" in task else _short_results(task)
    image = _image_of(task.get("data", task))
    labels = {result["id"]: result["value"].get("labels") for result in results if _is_labels(result)}
    for number, result in enumerate(results, 1):
        if _is_labels(result):
            continue
        try:
            found.shapes += _result_shapes(f"{where}, result {number}", result, image, labels, found)
        except ValueError as error:
            found.problems.append(f"{where}, result {number}: {error}")


def _whole_results(task: dict, found: Export) -> list[dict]:
    """The results in all annotations of a task (JSON)."""
    results = []
    for annotation in _dicts(task.get("annotations", task.get("completions")), "annotations"):
        if annotation.get("was_cancelled"):
            found.left_out["cancelled annotations of Label Studio"] += 1
        else:
            results += _dicts(annotation.get("result"), "result")
    if predictions := _dicts(task.get("predictions"), "predictions"):
        found.left_out["predictions of Label Studio"] += len(predictions)
    return results


def _short_results(task: dict) -> list[dict]:
    """The values that stand by the names of controls (JSON-MIN), as results."""
    lists = (values for values in task.values() if isinstance(values, list))
    return [{"value": value} | value for values in lists for value in values if isinstance(value, dict)]


def _is_labels(result: dict) -> bool:
    """Whether a result only names the label of another one of the same id."""
    return (
        result.get("type") == "labels" and isinstance(result.get("value"), dict) and isinstance(result.get("id"), str)
    )


def _result_shapes(
    where: str, result: dict, image: str | None, labels: dict[str, object], found: Export
) -> list[Shape]:
    """The marks of one result. Raises ValueError with what is wrong."""
    value = result.get("value")
    value = value if isinstance(value, dict) else {}
    kind = next((kind for kind in ("keypoint", "brush") if _is_kind(kind, result, value)), None)
    if kind is None:
        named = [result.get("type"), *(key for key in value if key.endswith("labels")), "results"]
        what = next(name for name in named if isinstance(name, str))
        found.left_out[f"{what[:40]} of Label Studio"] += 1
        return []
    names = value.get(f"{kind}labels") or (labels.get(result["id"]) if isinstance(result.get("id"), str) else None)
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(f'labels {str(names)[:80]}; expected one, as ["cat"]')
    if image is None:
        raise ValueError("its task names no image; expected its address or path under data.image")
    if turned := result.get("image_rotation"):
        raise ValueError(f"the image was turned by {str(turned)[:20]} degrees; turn it back, then export anew")
    size = _size(result.get("original_width"), result.get("original_height"))
    if kind == "keypoint":
        path = _path([[value.get("x"), value.get("y")]])
        if path is None:
            raise ValueError("expected x and y, in percent of the image's size")
        return [Shape(where, image, names[0], path, (100, 100), size)]
    discs = painted_discs(_painted(value, size))
    return [Shape(where, image, names[0], [(x + 0.5, y + 0.5)], size, size, radius) for x, y, radius in discs]


def _is_kind(kind: str, result: dict, value: dict) -> bool:
    return f"{kind}labels" in value or result.get("type") in (kind, f"{kind}labels")


def _image_of(data: object) -> str | None:
    """The address or path of a task's image: under `image`, else the only text that ends as images do."""
    texts = {key: text for key, text in data.items() if isinstance(text, str)} if isinstance(data, dict) else {}
    if texts.get("image"):
        return texts["image"]
    likely = [text for text in texts.values() if text.lower().endswith(tuple(ENDINGS))]
    return likely[0] if len(likely) == 1 else None


def _painted(value: dict, size: tuple[float, float] | None) -> NDArray[np.bool_]:
    """The painted pixels of a brush, bool (H, W). Raises ValueError for what is no such thing."""
    code = value.get("rle")
    if value.get("format") != "rle" or not isinstance(code, list) or size is None:
        raise ValueError("expected format rle, a list rle, original_width and original_height")
    width, height = map(int, size)
    if width * height > BRUSH_MAX:
        raise ValueError(f"painted on {width} x {height} pixels; expected at most {BRUSH_MAX:,}")
    if not all(type(number) is int and 0 <= number < 256 for number in code):
        raise ValueError("rle holds something other than numbers from 0 to 255")
    return decode_rle(bytes(code), 4 * width * height).reshape(height, width, 4)[..., 3] > 0


def decode_rle(code: bytes, count: int) -> NDArray[np.uint8]:
    """Numbers packed as Label Studio packs the RGBA pixels of a brush (format rle-pack of thi.ng/umbrella).

    A head of 32 bits: how many numbers; 5: bits of each, less one; four times 4: bits of the lengths 0 to 3, less one.
    Then parts: a bit, 1 = one number repeated, 0 = as many numbers; 2 bits: which of the lengths; the part's length,
    less one; the number or numbers.

    Raises ValueError unless there are `count` numbers of 8 bits.
    """
    place = 0

    def read(bits: int) -> int:
        nonlocal place
        start, place = place, place + bits
        if place > 8 * len(code):
            raise ValueError("rle is cut off")
        part = int.from_bytes(code[start // 8 : (place + 7) // 8])
        return part >> -place % 8 & (1 << bits) - 1

    total, bits = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if (total, bits) != (count, 8):
        raise ValueError(f"rle of {total} numbers of {bits} bits; expected {count} of 8, 4 for each pixel")
    out, done = np.empty(count, np.uint8), 0
    while done < count:
        repeated, length = read(1), read(lengths[read(2)]) + 1
        if length > count - done:
            raise ValueError("rle holds more numbers than it says")
        if repeated:
            out[done : done + length] = read(8)
        else:
            numbers = read(8 * length)
            out[done : done + length] = np.frombuffer(numbers.to_bytes(length), np.uint8)
        done += length
    return out


def painted_discs(painted: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """Discs x, y, radius within what is painted, bool (H, W), in pixels: along the middle of strokes.

    The largest that fits comes first, then the largest around a pixel that no disc has covered, but for the edges
    beside a disc: pixels within 1.5 of its radius that are less than 3/4 as deep. Radius 0 is a pixel alone. Nothing
    that is not painted is covered.
    """
    _, parts, boxes, _ = cv2.connectedComponentsWithStats(painted.astype(np.uint8), connectivity=8)
    for part, (left, top, width, height, _) in enumerate(boxes[1:], 1):
        own = np.pad(parts[top : top + height, left : left + width] == part, 1)
        depth = cv2.distanceTransform(own.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        least = np.zeros(own.shape)  # depth from which on a pixel gets a disc
        places = np.flatnonzero(own)
        for place in places[np.argsort(-depth.flat[places], kind="stable")].tolist():
            y, x = divmod(place, own.shape[1])
            if depth[y, x] > least[y, x]:
                radius = math.ceil(depth[y, x]) - 1  # all pixels nearer than `depth` are painted
                yield left + x - 1, top + y - 1, radius
                _raise(least, x, y, 1.5 * radius, to=0.75 * depth[y, x])
                _raise(least, x, y, radius, to=np.inf)


def _raise(values: NDArray[np.float64], x: int, y: int, radius: float, *, to: float) -> None:
    """Make values within `radius` of a place at least `to`."""
    reach = int(radius)
    top, left = max(0, y - reach), max(0, x - reach)
    window = values[top : y + reach + 1, left : x + reach + 1]
    rows, columns = np.ogrid[: window.shape[0], : window.shape[1]]
    inside = (rows + top - y) ** 2 + (columns + left - x) ** 2 <= radius**2
    np.maximum(window, to, out=window, where=inside)


# ---------------------------------------------------------------------------------------------------------------
# Values of any file


def _dicts(value: object, what: str) -> list[dict]:
    """A list of objects; nothing counts as an empty one. Raises ValueError for anything else."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{what}: expected a list of objects")
    return value


def _size(width: object, height: object) -> tuple[float, float] | None:
    """Width and height that are whole positive numbers of pixels, else None."""
    size = _number(width), _number(height)
    fine = all(value is not None and 1 <= value < 2**20 and value == int(value) for value in size)
    return size if fine else None


def _path(places: object) -> Path2D | None:
    """Pairs of finite numbers, at least one; None for anything else."""
    if not isinstance(places, list) or not places:
        return None
    path = []
    for place in places:
        if not isinstance(place, list) or len(place) != 2:
            return None
        pair = _number(place[0]), _number(place[1])
        if None in pair:
            return None
        path.append(pair)
    return path


def _number(value: object) -> float | None:
    """A finite number, or text that is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
