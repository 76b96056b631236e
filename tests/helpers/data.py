"""Small pictures with their index."""

import csv
import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dsrg.artifacts.label_folder import CHECKSUMS
from dsrg.data.index import Index
from dsrg.files import sha256


def picture(height: int, width: int, *, seed: int) -> np.ndarray:
    """A smooth random picture, uint8 (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray | Image.Image, form: str, **options: object) -> bytes:
    """The bytes of an image file; `turned` is its EXIF orientation."""
    if turned := options.pop("turned", 0):
        options["exif"] = Image.Exif()
        options["exif"][274] = turned
    content = BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(content, form, **options)
    return content.getvalue()


def huge_png(png: bytes, width: int, height: int) -> bytes:
    """A PNG that claims to have another size."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def save_flat(root: Path, *names: str, size: tuple[int, int] = (4, 6)) -> None:
    """Small images of one color, hardly any two alike."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), sum(name.encode()) % 251, np.uint8)).save(root / name)


def annotation(*tags: str) -> str:
    """An annotation of PASCAL VOC."""
    return f"<annotation>{''.join(f'<object><name>{tag}</name></object>' for tag in tags)}</annotation>"


def save_voc(root: Path, tags: dict[str, str], **lists: str) -> None:
    """Small images in the layout of PASCAL VOC; tags: of each image, with spaces between; lists: the lines of each."""
    save_flat(root, *(f"JPEGImages/{image_id}.jpg" for image_id in tags))
    files = {f"Annotations/{image_id}.xml": annotation(*own.split()) for image_id, own in tags.items()}
    for path, text in (files | {f"ImageSets/Segmentation/{name}.txt": text for name, text in lists.items()}).items():
        write(root / path, text)


def index_of(tags: dict[str, list[int]]) -> Index:
    """An index of training images ID.png of 8 x 8 pixels, without files; `tags` without the column of background."""
    count, size = len(tags), np.full(len(tags), 8, np.int32)
    present = np.array([[1, *row] for row in tags.values()], bool)
    paths = [f"{image_id}.png" for image_id in tags]
    return Index(list(tags), ["train"] * count, paths, size, size, present, ["0" * 64] * count)


def save_index(root: Path, pictures: dict[str, np.ndarray], present: list[list[int]]) -> Index:
    """PNGs in `root` and the index of them; `present` without the column of background."""
    for image_id, pixels in pictures.items():
        Image.fromarray(pixels).save(root / f"{image_id}.png")
    heights, widths = (np.array([pixels.shape[axis] for pixels in pictures.values()], np.int32) for axis in (0, 1))
    checksums = [sha256(root / f"{image_id}.png") for image_id in pictures]
    tags = dict(zip(pictures, present, strict=True))
    return replace(index_of(tags), heights=heights, widths=widths, checksums=checksums, root=root)


def harm(path: Path, how: str) -> None:
    """Damage a file: a "bit" of it, "cut" off its end, or leave it "empty"."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"bit": content, "cut": content[:-100], "empty": b""}[how])


def note_checksums(folder: Path) -> None:
    """Make a folder of PNGs one of label maps."""
    lines = (f"{sha256(path)}  {path.name}\n" for path in sorted(folder.glob("*.png")))
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
