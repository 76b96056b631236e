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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, Field, TypeAdapter, ValidationError

from dsrg.data.ids import normal
from dsrg.data.images import ENDINGS
from dsrg.errors import InputError
from dsrg.files import parse_xml, read_text
from dsrg.sources.points import PointReader, PointRow, place_text
from dsrg.sources.validation import warn_of

FILE_MAX = 256 * 2**20  # bytes of an export: all of it is in memory, several times
BRUSH_MAX = 2**26  # pixels of a painted image, 4 bytes each
EXPECTED = "expected an export of Label Studio (JSON), CVAT (XML, `CVAT for images 1.1`) or labelme (JSON)"
Number = Annotated[float, Field(allow_inf_nan=False)]
Side = Annotated[Number, Field(ge=1, lt=2**20, multiple_of=1)]  # pixels
Path2D = Annotated[list[Annotated[list[Number], Field(min_length=2, max_length=2)]], Field(min_length=1)]
Size = tuple[float, float]  # width, height
SIZE = TypeAdapter(tuple[Side, Side])
Model = TypeVar("Model", bound=BaseModel)


@dataclass
class Export:
    """What files hold for the images of the reader: rows of a table of points, strokes numbered from 1 on; what is
    wrong; what is left out, by kind; and images' paths by their names elsewhere.

    radius: of marks that have none of their own, pixels.
    """

    reader: PointReader
    radius: float = 0
    rows: list[PointRow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    elsewhere: dict[str, str] = field(default_factory=dict)
    strokes: int = 0

    def notes(self) -> list[str]:
        kinds = [f"{count} {kind} left out: no points or strokes of a person" for kind, count in self.left_out.items()]
        named = [f"{name} = {path}" for name, path in self.elsewhere.items()]
        return kinds + warn_of("images are named by a path or address elsewhere, and found by its end", named)

    @contextmanager
    def noting(self, where: object) -> Iterator[None]:
        """A ValueError becomes a problem at a place."""
        try:
            yield
        except ValueError as error:
            self.problems.append(f"{where}: {error}")

    def add(
        self,
        where: str,
        image: str,
        label: str,
        path: Sequence[Sequence[float]],
        size: Size | None,
        *,
        unit: Size | None = None,
        radius: float | None = None,
    ) -> None:
        """Take one mark as a tool wrote it.

        path: x and y; counted in `unit`, so that (0, 0) and `unit` are the image's corners, or in its pixels where that
        is None. radius: pixels. size: (width, height) of the image it was drawn on, or None. Raises ValueError where
        that is another image.
        """
        label = normal(label)
        # by its name, else by the end of its name, as of a path elsewhere
        found = (self.reader.find(name) for name in (image, f"/{image}"))
        image_id = next((one for one in found if isinstance(one, str)), None)
        if image_id is None:  # whoever reads the rows says what is wrong
            self.rows.append(PointRow(where, image, "0", "0", label, "", ""))
            return
        index, row = self.reader.index, self.reader.row[image_id]
        if image not in (image_id, index.paths[row]):
            self.elsewhere[image] = index.paths[row]
        width, height = own = int(index.widths[row]), int(index.heights[row])
        drawn = size or own
        if abs(drawn[1] * width - height * drawn[0]) > max(*drawn, *own):  # another shape, but for rounding
            what = f"drawn on {drawn[0]:g} x {drawn[1]:g} pixels, but {image_id} has {width} x {height}"
            raise ValueError(f"{what} (as turned by its EXIF orientation); draw on that image")
        across, down = (a / b for a, b in zip(own, unit or drawn, strict=True))
        wide = self.radius if radius is None else radius * width / drawn[0]
        self.strokes += len(path) > 1
        stroke = str(self.strokes) if len(path) > 1 else ""
        for x, y in path:
            cells = place_text(x * across), place_text(y * down), label, place_text(wide) if wide else "", stroke
            self.rows.append(PointRow(where, image_id, *cells))


def read_exports(paths: Iterable[Path], reader: PointReader, *, radius: float = 0) -> Export:
    """All marks in files, or in the JSON and XML files of folders. Whatever is wrong is among the problems."""
    found = Export(reader, radius)
    for path in paths:
        inside = (one for one in path.rglob("*") if one.suffix.lower() in (".json", ".xml"))
        files = sorted(inside) if path.is_dir() else [path]
        if not files:
            found.problems.append(f"{path}: no JSON or XML file in this folder; {EXPECTED}")
        for file in files:
            try:
                with found.noting(file):
                    (_read_cvat if file.suffix.lower() == ".xml" else _read_json)(file, found)
            except InputError as error:
                found.problems += error.problems
    return found


def _parsed(model: type[Model], content: object, expected: str, *, strict: bool = True) -> Model:
    """Raises ValueError with what was expected, and what is wrong."""
    try:
        return model.model_validate(content, strict=strict)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"expected {expected} ({'.'.join(map(str, first['loc']))}: {first['msg']})") from None


def _size(width: object, height: object) -> Size | None:
    """Raises ValueError where they are given, and no whole pixels."""
    try:
        return None if width is None or height is None else SIZE.validate_python((width, height))
    except ValidationError:
        raise ValueError(f"a size of {width!s:.20} x {height!s:.20}; expected whole pixels") from None


# ---------------------------------------------------------------------------------------------------------------
# labelme, CVAT


class _Labelme(BaseModel):
    imagePath: str = Field(min_length=1)
    shapes: list[dict]


class _Drawn(BaseModel):
    label: str = Field(min_length=1)
    points: Path2D


def _read_labelme(path: Path, content: dict, found: Export) -> None:
    file = _parsed(_Labelme, content, "imagePath and a list of shapes, as labelme writes them")
    image = os.path.abspath(path.parent / file.imagePath.replace("\\", "/"))  # relative to the file; found by its end
    size = _size(content.get("imageWidth"), content.get("imageHeight"))
    for number, shape in enumerate(file.shapes, 1):
        where, kind = f"{path}: shape {number}", str(shape.get("shape_type"))[:40]
        if kind not in ("point", "line", "linestrip"):
            found.left_out[f"{kind} of labelme"] += 1
            continue
        with found.noting(where):
            drawn = _parsed(_Drawn, shape, "a label and points [[x, y], ...], both numbers")
            for one in [[place] for place in drawn.points] if kind == "point" else [drawn.points]:
                found.add(where, image, drawn.label, one, size)


def _read_cvat(path: Path, found: Export) -> None:
    try:
        annotations = parse_xml(path, most=FILE_MAX)
    except ValueError as error:
        raise ValueError(f"no readable XML ({error}); {EXPECTED}") from None
    if annotations.tag != "annotations" or annotations.find("track") is not None:
        what = "tracks of a video" if annotations.tag == "annotations" else f"<{annotations.tag}>"
        raise ValueError(f"{what}; export the task as `CVAT for images 1.1`")
    for image in annotations.iter("image"):
        name = image.get("name", "")
        for number, shape in enumerate(image, 1):
            where = f"{path}: image {name!r}, shape {number}"
            if shape.tag not in ("points", "polyline"):
                found.left_out[f"{shape.tag} of CVAT"] += 1
                continue
            with found.noting(where):
                points = [pair.split(",") for pair in shape.get("points", "").split(";")]
                content = {"label": shape.get("label"), "points": points}
                drawn = _parsed(_Drawn, content, "a label and points as 12.5,30.0;14.0,31.5", strict=False)
                size = _size(image.get("width"), image.get("height"))
                for one in [[place] for place in drawn.points] if shape.tag == "points" else [drawn.points]:
                    found.add(where, name, drawn.label, one, size)


# ---------------------------------------------------------------------------------------------------------------
# Label Studio


class _Result(BaseModel):
    id: str | int | None = None
    type: str | None = None
    value: dict | None = None
    image_rotation: float | None = None
    original_width: Side | None = None
    original_height: Side | None = None


class _Annotation(BaseModel):
    was_cancelled: bool | None = None
    result: list[_Result] | None = None


class _Task(BaseModel):
    data: dict
    annotations: list[_Annotation] | None = Field(None, validation_alias=AliasChoices("annotations", "completions"))
    predictions: list[dict] | None = None


class _KeyPoint(BaseModel):
    x: Number
    y: Number


class _Brush(BaseModel):
    format: Literal["rle"]
    rle: list[Annotated[int, Field(ge=0, le=255)]]


def _read_json(path: Path, found: Export) -> None:
    """A file of Label Studio, or of labelme."""
    try:
        content = json.loads(read_text(path, most=FILE_MAX))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no readable JSON ({error}); {EXPECTED}") from None
    if isinstance(content, dict) and "shapes" in content:
        return _read_labelme(path, content, found)
    tasks = content if isinstance(content, list) else [content]
    if not all(isinstance(task, dict) and ("data" in task or "image" in task) for task in tasks):
        raise ValueError(f"neither tasks of Label Studio nor shapes of labelme; {EXPECTED}")
    for number, task in enumerate(tasks, 1):
        where = f"{path}: task {number}"
        with found.noting(where):
            _read_task(where, task, found)


def _read_task(where: str, task: dict, found: Export) -> None:
    """Raises ValueError for what is no task."""
    if "data" in task:  # JSON
        whole = _parsed(_Task, task, "a task as Label Studio writes it")
        counts = {
            "cancelled annotations of Label Studio": sum(bool(one.was_cancelled) for one in whole.annotations or ()),
            "predictions of Label Studio": len(whole.predictions or ()),
        }
        found.left_out += Counter(counts)
        kept = (one.result or () for one in whole.annotations or () if not one.was_cancelled)
        results = [result for own in kept for result in own]
    else:  # JSON-MIN: what a result has stands by the name of its control
        lists = (values for values in task.values() if isinstance(values, list))
        values = [value for own in lists for value in own if isinstance(value, dict)]
        results = [_parsed(_Result, one | {"value": one}, "results as Label Studio writes them") for one in values]
    labels = {one.id: (one.value or {}).get("labels") for one in results if one.type == "labels" and one.id}
    for number, result in enumerate(results, 1):
        if result.type != "labels":  # that is the label of another one of the same id
            with found.noting(f"{where}, result {number}"):
                _read_result(f"{where}, result {number}", task, result, labels, found)


def _read_result(where: str, task: dict, result: _Result, labels: dict, found: Export) -> None:
    """Raises ValueError with what is wrong."""
    value = result.value or {}
    kinds = (kind for kind in ("keypoint", "brush") if f"{kind}labels" in value or kind in (result.type or ""))
    if (kind := next(kinds, None)) is None:
        what = next(filter(None, [result.type, *(key for key in value if key.endswith("labels")), "results"]))
        found.left_out[f"{what[:40]} of Label Studio"] += 1
        return
    names = value.get(f"{kind}labels") or labels.get(result.id)
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(f'labels {str(names)[:80]}; expected one, as ["cat"]')
    if (image := _image_of(task.get("data", task))) is None:
        raise ValueError("its task names no image; expected its address or path under data.image")
    if turned := result.image_rotation:
        raise ValueError(f"the image was turned by {turned:g} degrees; turn it back, then export anew")
    size = _size(result.original_width, result.original_height)
    if kind == "keypoint":
        point = _parsed(_KeyPoint, value, "x and y, in percent of the image's size")
        return found.add(where, image, names[0], [[point.x, point.y]], size, unit=(100, 100))
    code = _parsed(_Brush, value, "format rle and a list rle of numbers from 0 to 255").rle
    if size is None or size[0] * size[1] > BRUSH_MAX:
        raise ValueError(f"a brush without original_width and original_height, or of more than {BRUSH_MAX:,} pixels")
    width, height = map(int, size)
    painted = decode_rle(bytes(code), 4 * width * height).reshape(height, width, 4)[..., 3] > 0
    for x, y, radius in painted_discs(painted):
        found.add(where, image, names[0], [[x + 0.5, y + 0.5]], size, radius=radius)


def _image_of(data: dict) -> str | None:
    """The address or path of a task's image: under `image`, else the only text that ends as images do."""
    texts = {key: text for key, text in data.items() if isinstance(text, str)}
    likely = [text for text in texts.values() if text.lower().endswith(tuple(ENDINGS))]
    return texts.get("image") or (likely[0] if len(likely) == 1 else None)


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
