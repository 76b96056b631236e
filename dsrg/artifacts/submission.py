"""An archive for the evaluation server of PASCAL VOC 2012, which alone knows the masks of the test split.

results/VOC2012/Segmentation/comp6_test_cls/ID.png   in a tar.gz: a palette PNG of each image's size, 0..20

comp6 is the competition that allows training data beyond VOC's own, as ImageNet weights and SBD's images are.
"""

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dsrg.data.classes import VOC_CLASSES
from dsrg.data.palette import label_png
from dsrg.errors import InputError
from dsrg.files import atomic_file

FOLDER = PurePosixPath("results/VOC2012/Segmentation/comp6_test_cls")
LABELS = len(VOC_CLASSES) + 1

Shapes = dict[str, tuple[int, int]]  # (H, W) of each image, by id


def write_submission(path: Path, shapes: Shapes, labels: Iterable[NDArray[np.uint8]]) -> None:
    """Write the archive of label maps uint8 (H, W), in the order of `shapes`, atomically; same maps, same bytes.

    Raises InputError with every map that is not of its image's size or has other values than 0..20: the server takes
    few archives, and 255, unlabeled, would count as wrong everywhere.
    """
    problems = []
    # No name and no time in the head of the gzip file, no time and no owner in those of its members.
    with (
        atomic_file(path) as temporary,
        open(temporary, "wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for (image_id, shape), label_map in zip(shapes.items(), labels, strict=True):
            png = label_png(label_map)
            member = tarfile.TarInfo(str(FOLDER / f"{image_id}.png"))
            member.size = len(png)
            archive.addfile(member, io.BytesIO(png))
            where = f"{path}: {member.name}"
            if label_map.shape != shape:
                (height, width), (rows, columns) = shape, label_map.shape
                problems.append(f"{where}: {columns} x {rows} pixels; its image has {width} x {height}")
            if wrong := np.unique(label_map[label_map >= LABELS]).tolist():
                problems.append(f"{where}: holds {', '.join(map(str, wrong))}; expected 0 to {LABELS - 1}")
        if problems:
            raise InputError(problems)
