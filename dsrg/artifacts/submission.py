"""An archive for the evaluation server of PASCAL VOC 2012, which alone knows the masks of the test split.

results/VOC2012/Segmentation/comp6_test_cls/ID.png   in a tar.gz: a palette PNG of each image's size, 0..20

comp6 is the competition that allows training data beyond VOC's own, as ImageNet weights and SBD's images are.
"""

import gzip
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsrg.data.classes import VOC_CLASSES
from dsrg.data.palette import label_png, voc_palette
from dsrg.errors import InputError
from dsrg.files import atomic_file

FOLDER = PurePosixPath("results/VOC2012/Segmentation/comp6_test_cls")
LABELS = len(VOC_CLASSES) + 1

Shapes = dict[str, tuple[int, int]]  # (H, W) of each image, by id


def write_submission(path: Path, shapes: Shapes, labels: Iterable[NDArray[np.uint8]]) -> None:
    """Write the archive of label maps uint8 (H, W), in the order of `shapes`, and check it: atomically.

    The same label maps give the same bytes. Raises InputError as `check_submission` does.
    """
    with atomic_file(path) as temporary:
        with open(temporary, "wb") as file:
            _write(file, zip(shapes, labels, strict=True))
        if problems := _problems(temporary, shapes):
            raise InputError(f"{path}: {problem}" for problem in problems)


def check_submission(path: Path, shapes: Shapes) -> None:
    """Look at every file of an archive before it is sent, for the server takes few.

    Each listed id must be there once, and nothing else, as a palette PNG in VOC's colors, of its image's size, with
    values 0..20 only: 255, unlabelled, would count as wrong everywhere. Raises InputError with all offenders at once.
    """
    if problems := _problems(path, shapes):
        raise InputError(f"{path}: {problem}" for problem in problems)


def _write(file: BinaryIO, labels: Iterable[tuple[str, NDArray[np.uint8]]]) -> None:
    # No name and no time in the head of the gzip file, no time and no owner in those of its members.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for image_id, label_map in labels:
            png = label_png(label_map)
            member = tarfile.TarInfo(str(FOLDER / f"{image_id}.png"))
            member.size = len(png)
            archive.addfile(member, io.BytesIO(png))


def _problems(path: Path, shapes: Shapes) -> list[str]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            return list(_member_problems(archive, shapes))
    except (OSError, EOFError, tarfile.TarError) as error:
        return [f"not readable as a tar.gz ({error})"]


def _member_problems(archive: tarfile.TarFile, shapes: Shapes) -> Iterator[str]:
    wanted = {str(FOLDER / f"{image_id}.png"): shape for image_id, shape in shapes.items()}
    around = {str(folder) for folder in (FOLDER, *FOLDER.parents)}
    seen = set()
    for member in archive:
        name = str(PurePosixPath(member.name))  # without the ./ that some programs write
        if member.isdir() and name in around:
            continue
        if name not in wanted or not member.isfile():
            yield f"{member.name}: not one of the listed images' {FOLDER}/ID.png; leave it out"
        elif name in seen:
            yield f"{member.name}: there twice; keep one"
        else:
            yield from (f"{member.name}: {fault}" for fault in _png_faults(archive.extractfile(member), wanted[name]))
        seen.add(name)
    yield from (f"{name}: missing; every listed image needs its label map" for name in wanted if name not in seen)


def _png_faults(file: BinaryIO, shape: tuple[int, int]) -> Iterator[str]:
    try:
        image = Image.open(io.BytesIO(file.read()), formats=("PNG",))
        labels = np.array(image)
    except Exception as error:  # a broken file can raise nearly anything in a decoder
        yield f"no readable PNG ({' '.join(str(error).split())})"
        return
    if image.mode != "P":
        yield f"a PNG of mode {image.mode}; expected a palette PNG"
        return
    if labels.shape != shape:
        yield f"{labels.shape[1]} x {labels.shape[0]} pixels; its image has {shape[1]} x {shape[0]}"
    palette = image.getpalette()
    if len(palette) < 3 * LABELS or palette != voc_palette().ravel()[: len(palette)].tolist():
        yield "a palette of other colors than VOC's"
    if wrong := [value for value in np.unique(labels).tolist() if value >= LABELS]:
        yield f"holds {', '.join(map(str, wrong))}; expected 0 to {LABELS - 1}"
