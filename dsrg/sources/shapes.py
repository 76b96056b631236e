"""The demo set: drawn creatures, a small model of weakly supervised segmentation that needs no download.

What makes the real problem hard is drawn in on purpose. All creatures share one family of bodies; only the *head* tells
the class, by its shape, its pattern and, as far as `hue_spread` lets it, its color. A classifier trained on tags
therefore looks at heads alone, and the segmenter has to learn that the smooth, outlined body belongs to the head at its
end. A body's muted color hints at the class only as far as `coat_spread` lets it; backgrounds and clutter are drawn
without knowing the class. Heads alone are vivid, so that a small network finds them within some hundred steps.

Every picture is a pure function of (seed, split, number): a larger set begins with the smaller one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.random import Generator

from dsrg.data.classes import read_classes, write_classes
from dsrg.data.palette import label_png
from dsrg.errors import InputError
from dsrg.files import atomic_folder
from dsrg.params import ShapesParams

SPLITS = ("train", "val")
SUPERSAMPLING = 2  # creatures are drawn this much larger, then averaged down, for smooth edges
JPEG_QUALITY = 95

# What must stay in sight of a creature that is tagged; else it is moved, and left out when no place is found.
HEAD_IN_SIGHT = 0.75
BODY_IN_SIGHT = 0.6  # of the whole creature
TRIES = 10  # of new creatures, and of places for each

BODY_LENGTH = (40, 90)  # pixels
HEAD_DIAMETER = (18, 36)  # pixels
AREA_OVER_LENGTH_SQUARED = 0.5  # of an average creature, to turn a wished-for area into a body length

Polygon = np.ndarray  # float (n, 2), x y
DARK, LIGHT = 0, 1


class Creature(NamedTuple):
    """One drawn creature on its own little canvas, cut to fit."""

    rgb: np.ndarray  # uint8 (h, w, 3), of its outline's color outside
    alpha: np.ndarray  # uint8 (h, w), 255 inside
    head: np.ndarray  # bool (h, w), its head alone


class DrawnPicture(NamedTuple):
    """One picture of the set with all that is known of it."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    mask: np.ndarray  # uint8 (H, W) label map
    classes: list[int]  # 1..C, one for each creature, back to front


# Heads: what tells the classes apart. Each is a list of (polygon, tone), painted in order; x points away from the body,
# the radius is about 1.


def _direction(angles: float | np.ndarray) -> Polygon:
    """Unit vectors (..., 2) at angles in radians."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _disc(radius: float, x: float = 0.0, y: float = 0.0) -> Polygon:
    return [x, y] + radius * _direction(np.linspace(0, 2 * np.pi, 32, endpoint=False))


def _rectangle(left: float, top: float, right: float, bottom: float) -> Polygon:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _heads() -> dict[str, list[tuple[Polygon, int]]]:
    squares, strips, sectors = np.linspace(-0.95, 0.95, 5), np.linspace(-0.85, 1.2, 6), np.linspace(0, 2 * np.pi, 7)
    sixths, tenths = np.arange(6) * np.pi / 3, np.arange(10) * np.pi / 5
    half = 1.1 * (1.25 - strips) / 2.1
    star = np.where(np.arange(10) % 2 == 0, 1.25, 0.55)[:, None] * _direction(tenths)
    return {
        "bullseye": [(_disc(1.0), DARK), (_disc(0.74), LIGHT), (_disc(0.48), DARK), (_disc(0.2), LIGHT)],
        "checker": [
            (_rectangle(squares[i], squares[j], squares[i + 1], squares[j + 1]), (i + j) % 2)
            for i in range(4)
            for j in range(4)
        ],
        "daisy": [(_disc(0.4, 0.75 * np.cos(a), 0.75 * np.sin(a)), LIGHT) for a in sixths] + [(_disc(0.5), DARK)],
        "star": [(star, DARK), (0.55 * star, LIGHT)],
        "arrow": [
            (np.array([[a, -p], [b, -q], [b, q], [a, p]]), i % 2)
            for i, (a, b, p, q) in enumerate(zip(strips, strips[1:], half, half[1:], strict=False))
        ],
        "pinwheel": [
            (np.vstack([[0.0, 0.0], _direction(np.linspace(start, stop, 8))]), i % 2)
            for i, (start, stop) in enumerate(zip(sectors, sectors[1:], strict=False))
        ],
    }


HEADS = _heads()
CLASSES = tuple(HEADS)


# Drawing


def _hsv(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    """The RGB color of a hue in degrees, a saturation and a value in 0..255."""
    hsv = np.array([[[hue % 360 / 2, saturation, value]]], np.uint8)
    return tuple(int(c) for c in cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0])


def _fill(canvas: np.ndarray, polygon: Polygon, color: int | tuple[int, int, int]) -> None:
    cv2.fillPoly(canvas, [np.round(polygon * 16).astype(np.int32)], color, cv2.LINE_8, 4)


def _stroke(canvas: np.ndarray, points: Polygon, width: float, color: int) -> None:
    cv2.polylines(canvas, [np.round(points * 16).astype(np.int32)], False, color, max(1, round(width)), cv2.LINE_8, 4)


def _random_pose(rng: Generator, side: int) -> Callable[[Polygon], Polygon]:
    """From a creature's own coordinates (x forwards, y down) to its canvas: turned a little, maybe mirrored."""
    forwards = _direction(np.radians(rng.uniform(-40, 40)))
    turn = np.stack([forwards, [-forwards[1], forwards[0]]])
    if rng.random() < 0.5:
        turn[:, 0] *= -1
    return lambda points: points @ turn + side / 2


def _draw_body(
    rng: Generator, mask: np.ndarray, pose: Callable[[Polygon], Polygon], length: float
) -> tuple[np.ndarray, float]:
    """Draw a bent capsule with legs and tail into `mask`; return where its front end is and which way it faces."""
    along = np.linspace(-0.5, 0.5, 24)
    bend, fatness, taper = rng.uniform(-0.45, 0.45), rng.uniform(0.2, 0.28), rng.uniform(-0.25, 0.25)
    radius = length * fatness * (1 + 2 * taper * along) * (1 - 0.5 * np.abs(2 * along) ** 3)
    spine = length * np.stack([(1 - fatness) * along, bend * (along**2 - 0.12)], axis=1)
    for center, r in zip(spine, radius, strict=True):
        _fill(mask, pose(_disc(r, *center)), 255)
    for place in np.linspace(4, 18, rng.integers(2, 5)).round().astype(int) + rng.integers(-1, 2):
        foot = spine[place] + [length * rng.uniform(-0.08, 0.08), radius[place] + length * rng.uniform(0.1, 0.2)]
        _stroke(mask, pose(np.stack([spine[place], foot])), length * rng.uniform(0.08, 0.12), 255)
    if rng.random() < 0.6:
        tail = np.array([[0, 0], [-0.22, rng.uniform(-0.1, 0.05)], [-0.34, rng.uniform(-0.3, 0.1)]])
        _stroke(mask, pose(spine[0] + length * tail), length * rng.uniform(0.06, 0.1), 255)
    facing = float(np.arctan2(*(spine[-1] - spine[-3])[::-1]))
    return spine[-1] + 0.6 * radius[-1] * _direction(facing), facing


def _shade(mask: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """A smooth, rounded look: lighter where it is thick, darker below, a dark outline -> uint8 (h, w, 3)."""
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    downwards = np.linspace(-0.06, 0.06, len(mask), dtype=np.float32)[:, None]
    light = 0.85 + 0.2 * np.sqrt(depth / max(depth.max(), 1.0)) - downwards
    light = np.where(depth > 1.2 * SUPERSAMPLING, light, np.float32(0.35))
    return np.minimum(light[:, :, None] * np.array(color, np.float32), 255).astype(np.uint8)


def _draw_creature(rng: Generator, class_id: int, *, length: float, hue_spread: float, coat_spread: float) -> Creature:
    """Draw one creature of class `class_id` (1..C), its body `length` pixels long; the spreads: see params.yaml."""
    length = length * SUPERSAMPLING
    side = int(2.4 * length)
    pose = _random_pose(rng, side)
    body, head = np.zeros((2, side, side), np.uint8)
    neck, facing = _draw_body(rng, body, pose, length)

    radius = np.clip(length * rng.uniform(0.42, 0.5), *np.multiply(HEAD_DIAMETER, SUPERSAMPLING)) / 2
    forwards = _direction(facing + rng.uniform(-0.4, 0.4))
    turn = radius * np.stack([forwards, [-forwards[1], forwards[0]]])
    pieces = [
        (pose(neck + 0.6 * radius * _direction(facing) + polygon @ turn), tone)
        for polygon, tone in HEADS[CLASSES[class_id - 1]]
    ]
    for polygon, _ in pieces:
        _fill(head, polygon, 255)

    # Only the part drawn on is painted and kept; its sides are multiples of SUPERSAMPLING.
    left, top, width, height = cv2.boundingRect(body | head)
    width, height = (-(-n // SUPERSAMPLING) * SUPERSAMPLING for n in (width, height))
    body, head = (layer[top : top + height, left : left + width] for layer in (body, head))
    hue = (class_id - 1) * 360 / len(CLASSES) + rng.uniform(-hue_spread, hue_spread)
    coat = hue + rng.uniform(-coat_spread, coat_spread)
    rgb = _shade(body, _hsv(coat, rng.uniform(30, 120), rng.uniform(110, 230)))
    tones = {
        DARK: _hsv(hue + rng.uniform(-40, 40), rng.uniform(120, 255), rng.uniform(30, 90)),
        LIGHT: _hsv(hue, rng.uniform(150, 255), rng.uniform(215, 255)),
    }
    for polygon, tone in pieces:
        _fill(rgb, polygon - [left, top], tones[tone])
    rgb[cv2.morphologyEx(head, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = [c // 2 for c in tones[DARK]]

    size = (width // SUPERSAMPLING, height // SUPERSAMPLING)
    rgb, alpha, head = (cv2.resize(layer, size, interpolation=cv2.INTER_AREA) for layer in (rgb, body | head, head))
    return Creature(rgb, alpha, head >= 128)


def _draw_background(rng: Generator, height: int, width: int, clutter: int) -> np.ndarray:
    """A textured ground (gradient, clouds, stripes or dots or neither, grain), `clutter` things of no class on it.

    Returns uint8 (height, width, 3).
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ends = [np.array(_hsv(rng.uniform(0, 360), rng.uniform(0, 70), rng.uniform(80, 200))) for _ in range(2)]
    towards = _direction(rng.uniform(0, 2 * np.pi))
    ramp = (towards[0] * x / width + towards[1] * y / height) / 2 + 0.5
    ground = ends[0] + ramp[:, :, None] * (ends[1] - ends[0])
    for cells in (4, 11, 30):
        clouds = rng.normal(size=(cells, cells, 3)) * 0.4 + rng.normal(size=(cells, cells, 1))
        ground += rng.uniform(3, 14) * cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)
    pattern = rng.choice(["none", "stripes", "dots"])
    if pattern != "none":
        turn, period = rng.uniform(0, np.pi), rng.uniform(6, 24)
        along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        wave = np.sin(along * 2 * np.pi / period)
        if pattern == "dots":
            wave = wave * np.sin(across * 2 * np.pi / period)
        ground += np.tanh(rng.uniform(1, 4) * wave)[:, :, None] * rng.uniform(-22, 22, 3)
    ground += rng.uniform(4, 11) * rng.normal(size=(height, width, 1)) + 3 * rng.normal(size=(height, width, 3))
    ground = np.clip(ground, 0, 255).astype(np.uint8)
    for _ in range(clutter):
        _draw_clutter(rng, ground)
    return ground


def _draw_clutter(rng: Generator, image: np.ndarray) -> None:
    """Paint one twig, pebble or shard somewhere on `image`; the ground shines through."""
    height, width = image.shape[:2]
    center, size = rng.uniform([0, 0], [width, height]), rng.uniform(3, 14)
    layer = np.zeros((height, width), np.uint8)
    kind = rng.choice(["twig", "pebble", "shard"])
    if kind == "twig":
        steps = rng.normal(scale=1.2 * size, size=(rng.integers(2, 5), 2))
        _stroke(layer, center + np.cumsum(steps, axis=0), rng.uniform(1, 4), 255)
    elif kind == "pebble":
        _fill(layer, center + _disc(size / 2) * rng.uniform(0.5, 1.5, 2), 255)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 6)))
        _fill(layer, center + size * _direction(angles), 255)
    color = np.array(_hsv(rng.uniform(0, 360), rng.uniform(0, 110), rng.uniform(40, 240)))
    opacity = rng.uniform(0.5, 0.95)
    painted = layer > 0
    image[painted] = np.round((1 - opacity) * image[painted] + opacity * color).astype(np.uint8)


# One picture


@dataclass(frozen=True)
class Scene:
    """A picture in the making: creatures are laid over each other, back to front."""

    image: np.ndarray  # uint8 (H, W, 3)
    owner: np.ndarray  # uint8 (H, W): the creature seen there, 1 = the first, 0 = none
    heads: np.ndarray  # bool (H, W): is it that creature's head?
    whole: tuple[tuple[int, int], ...]  # of each creature, its area and its head's, hidden pixels included

    def add(self, creature: Creature, left: int, top: int) -> "Scene | None":
        """This scene and one creature more, its canvas's corner at (left, top); None if that hides too much of any."""
        (h, w), (height, width) = creature.alpha.shape, self.owner.shape
        there = slice(max(top, 0), min(top + h, height)), slice(max(left, 0), min(left + w, width))
        own = slice(there[0].start - top, there[0].stop - top), slice(there[1].start - left, there[1].stop - left)
        inside = creature.alpha >= 128
        owner, heads, image = self.owner.copy(), self.heads.copy(), self.image.copy()
        owner[there][inside[own]] = len(self.whole) + 1
        heads[there][inside[own]] = creature.head[own][inside[own]]
        whole = (*self.whole, (np.count_nonzero(inside), np.count_nonzero(creature.head & inside)))
        for number, (area, head_area) in enumerate(whole, start=1):
            seen = owner == number
            if np.count_nonzero(seen) < BODY_IN_SIGHT * area:
                return None
            if np.count_nonzero(seen & heads) < HEAD_IN_SIGHT * head_area:
                return None
        cover = creature.alpha[own][:, :, None] / np.float32(255)
        image[there] = np.round(image[there] + cover * (creature.rgb[own] - image[there].astype(np.float32)))
        return Scene(image, owner, heads, whole)


def draw_picture(rng: Generator, first_class: int, shapes: ShapesParams) -> DrawnPicture:
    """Draw one picture; its first creature is of class `first_class` (1..C)."""
    height, width = (int(n) for n in rng.integers(shapes.size_min, shapes.size_max + 1, 2))
    ground = _draw_background(rng, height, width, clutter=int(rng.integers(0, shapes.clutter_max + 1)))
    scene = Scene(ground, np.zeros((height, width), np.uint8), np.zeros((height, width), bool), ())
    others = rng.integers(1, len(CLASSES) + 1, rng.integers(0, shapes.objects_max))
    area = rng.uniform(shapes.cover_min, shapes.cover_max) * height * width / (1 + len(others))
    spreads = {"hue_spread": shapes.hue_spread, "coat_spread": shapes.coat_spread}
    classes = []
    for class_id in (first_class, *others.tolist()):
        scene, found = _add_creature(rng, scene, class_id, area=area, **spreads)
        classes += [class_id] if found else []
    noisy = np.clip(scene.image + 2.0 * rng.normal(size=scene.image.shape), 0, 255).astype(np.uint8)
    return DrawnPicture(noisy, np.array([0, *classes], np.uint8)[scene.owner], classes)


def _add_creature(rng: Generator, scene: Scene, class_id: int, *, area: float, **spreads: float) -> tuple[Scene, bool]:
    """Add a creature of about `area` pixels at a random place, unless no place is found -> the scene, whether found."""
    height, width = scene.owner.shape
    for _ in range(TRIES):
        length = np.clip(np.sqrt(area / AREA_OVER_LENGTH_SQUARED) * rng.uniform(0.85, 1.2), *BODY_LENGTH)
        creature = _draw_creature(rng, class_id, length=length, **spreads)
        h, w = creature.alpha.shape
        for _ in range(TRIES):
            # At most a quarter of the canvas beyond a border.
            left, top = rng.uniform([-w / 4, -h / 4], [width - 3 * w / 4, height - 3 * h / 4]).round().astype(int)
            if new := scene.add(creature, int(left), int(top)):
                return new, True
    return scene, False


# Files


def _annotation(name: str, picture: DrawnPicture) -> bytes:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = name
    size = ElementTree.SubElement(root, "size")
    for key, value in zip(("height", "width", "depth"), picture.image.shape, strict=True):
        ElementTree.SubElement(size, key).text = str(value)
    for class_id in picture.classes:
        ElementTree.SubElement(ElementTree.SubElement(root, "object"), "name").text = CLASSES[class_id - 1]
    ElementTree.indent(root)
    return ElementTree.tostring(root) + b"\n"


def _write_picture(root: Path, picture_id: str, picture: DrawnPicture) -> None:
    _, jpeg = cv2.imencode(".jpg", picture.image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    (root / "JPEGImages" / f"{picture_id}.jpg").write_bytes(jpeg.tobytes())
    (root / "Annotations" / f"{picture_id}.xml").write_bytes(_annotation(f"{picture_id}.jpg", picture))
    (root / "SegmentationClass" / f"{picture_id}.png").write_bytes(label_png(picture.mask))


def draw_dataset(root: Path, shapes: ShapesParams) -> None:
    """Draw the demo set into the folder `root`: PASCAL VOC's layout and `classes.txt` (class k = line k).

    shapes: params `shapes`. A creature that finds no place is left out; creatures lose some of their share of the
    picture to each other, to the border and to the limits of their size. The same numbers draw the same files.

    An older set at `root` is replaced when the new one is complete. Raises InputError for a `root` that holds anything
    else.
    """
    if not _may_be_replaced(root):
        raise InputError(f"{root}: not a drawn set, and not empty; name a new folder, or delete this one yourself")
    with atomic_folder(root) as new:
        for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
            (new / folder).mkdir(parents=True)
        write_classes(new / "classes.txt", list(CLASSES))
        for split, count in zip(SPLITS, (shapes.train, shapes.val), strict=True):
            ids = [f"{split}{number:04d}" for number in range(count)]
            (new / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))
            for number, picture_id in enumerate(ids):
                rng = np.random.default_rng([shapes.seed, SPLITS.index(split), number])
                picture = draw_picture(rng, _first_class(shapes.seed, split, number), shapes)
                _write_picture(new, picture_id, picture)


def _may_be_replaced(root: Path) -> bool:
    """Nothing of value is lost: there is nothing at `root`, an empty folder or an older drawn set."""
    if not root.is_dir():
        return not root.exists()
    classes = root / "classes.txt"
    return not any(root.iterdir()) or classes.is_file() and read_classes(classes) == list(CLASSES)


def _first_class(seed: int, split: str, number: int) -> int:
    """The classes take turns, in a new order each round: equally frequent, and all there in a small set too."""
    turn, place = divmod(number, len(CLASSES))
    order = np.random.default_rng([seed, SPLITS.index(split), turn, 1]).permutation(len(CLASSES))
    return int(order[place]) + 1
