"""Label maps and maps of numbers drawn over their images, and pictures side by side."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dsrg.data.images import limit_side
from dsrg.data.index import Index
from dsrg.data.palette import voc_palette
from dsrg.files import atomic_file, atomic_folder
from dsrg.method.grid import UNLABELED

Picture = NDArray[np.uint8]  # RGB (H, W, 3)
Captioned = tuple[str, Picture]
CAPTION = 18  # pixels above a panel
GAP = 4
OPACITY = 0.6  # of class colors
SIDE = 1024  # pixels that an image is drawn on at most: at 8000 x 6000 its colors would take gigabytes
WIDEST = 4  # times as wide as high: a picture of 3 x 2000 pixels would fill a hall


def overlay(image: Picture, labels: NDArray[np.uint8]) -> Picture:
    """Class colors over the image (H, W, 3): classes get an outline, background is darkened, 255 stays as it is."""
    labels = cv2.resize(labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    colors = voc_palette()[labels]
    known = labels != UNLABELED
    mixed = np.where(known[..., None], (1 - OPACITY) * image + OPACITY * colors, image).astype(np.uint8)
    edges = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    mixed[edges & known] = 255
    return mixed


def heat(image: Picture, values: NDArray[np.floating]) -> Picture:
    """A map in 0..1 of any size over the image in grays: dark blue = 0, yellow = 1."""
    values = cv2.resize(values.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colors = cv2.applyColorMap((values.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(gray, 0.35, np.ascontiguousarray(colors), 0.65, 0)


def seed_pictures(
    image: Picture,
    *,
    cams: dict[int, NDArray[np.floating]],
    saliency: NDArray[np.floating] | None,
    seeds: NDArray[np.uint8],
    classes: list[str],
) -> list[Captioned]:
    """The image, the activation maps of its tagged classes and saliency, as far as there are any, and the seeds."""
    maps = [(f"CAM {classes[number - 1]}", heat(image, cam)) for number, cam in cams.items()]
    if saliency is not None:
        maps.append(("saliency", heat(image, saliency)))
    return [("image", image), *maps, ("seeds", overlay(image, seeds))]


def growth_pictures(
    image: Picture, *, seeds: NDArray[np.uint8], grown: dict[int, NDArray[np.uint8]]
) -> list[Captioned]:
    """Paper figure 1: the seeds, then the grown seeds at some steps of training."""
    steps = [(f"grown, step {step}", overlay(image, labels)) for step, labels in grown.items()]
    return [("seeds", overlay(image, seeds)), *steps]


def panels(pictures: list[Captioned], *, height: int = 160) -> Picture:
    """Pictures (caption, (H, W, 3)) side by side, captions above, on white; at one height, or WIDEST times as wide."""
    columns = []
    for caption, picture in pictures:
        scale = min(height / picture.shape[0], WIDEST * height / picture.shape[1])
        rows, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        panel = captioned(caption, height=CAPTION + height, width=width)
        panel[CAPTION : CAPTION + rows, :width] = cv2.resize(picture, (width, rows), interpolation=cv2.INTER_AREA)
        columns += [panel, np.full((CAPTION + height, GAP, 3), 255, np.uint8)]
    return np.concatenate(columns[:-1], axis=1)


def captioned(caption: str, *, height: int = CAPTION, width: int = 1) -> Picture:
    """White (height, width, 3) with a caption at its top; wider where the caption is."""
    (text_width, _), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    panel = np.full((height, max(width, text_width + 4), 3), 255, np.uint8)
    cv2.putText(panel, caption, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return panel


def stacked(rows: list[Picture]) -> Picture:
    """Pictures (H, W, 3) one below the other, on white."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 2 * GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded)


def write_label_overlays(folder: Path, index: Index, label_maps: dict[str, Iterable[NDArray[np.uint8]]]) -> None:
    """ID.png an image, atomically: the image, and over it its label maps by caption, side by side.

    label_maps: of the index's first images, in order.
    """
    with atomic_folder(folder) as temporary:
        for row, (image_id, *own) in enumerate(zip(index.ids, *label_maps.values(), strict=False)):
            image = limit_side(index.image(row), SIDE)
            drawn = [(caption, overlay(image, labels)) for caption, labels in zip(label_maps, own, strict=True)]
            write_picture(temporary / f"{image_id}.png", panels([(image_id, image), *drawn]))


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """RGB uint8 (H, W, 3) to PNG, atomically."""
    _, png = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    with atomic_file(path) as temporary:
        temporary.write_bytes(png)


def jpeg(picture: NDArray[np.uint8], *, quality: int) -> bytes:
    """RGB uint8 (H, W, 3) as JPEG."""
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()
