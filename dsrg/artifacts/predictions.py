"""A folder of predictions: what `dsrg predict` leaves behind.

masks/ID.png           label map, palette PNG of exactly the image's size
probabilities/ID.npz   probs float16 (C+1, h, w) at the size worked on, and classes: the names, background first
polygons.json          COCO: the label maps' regions as polygons
images.csv             id,image,width,height,classes   which image has which id, and what was found in it
classes.txt            line k names the class of value k
"""

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dsrg.artifacts.polygons import annotations_of, coco_document
from dsrg.data.classes import write_classes
from dsrg.data.palette import label_png
from dsrg.files import write_csv, write_text
from dsrg.method.grid import UNLABELED

COLUMNS = ["id", "image", "width", "height", "classes"]


class PredictionFolder:
    """Fills a folder image by image; `finish` writes what is about all of them."""

    def __init__(self, folder: Path, classes: list[str], *, polygons: bool) -> None:
        self.folder, self.classes, self.polygons = folder, classes, polygons
        self.rows: list[list] = []
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        (folder / "masks").mkdir()

    def write(self, image_id: str, labels: NDArray[np.uint8], *, probs: NDArray[np.float32] | None = None) -> None:
        """An image's own files, in any order and in several threads; labels uint8 (H, W), probs float (C+1, h, w)."""
        (self.folder / "masks" / f"{image_id}.png").write_bytes(label_png(labels))
        if probs is not None:
            (self.folder / "probabilities").mkdir(exist_ok=True)
            names = np.array(["background", *self.classes])
            file = self.folder / "probabilities" / f"{image_id}.npz"
            np.savez_compressed(file, probs=probs.astype(np.float16), classes=names)

    def add(self, image_id: str, path: Path, labels: NDArray[np.uint8]) -> None:
        """What the files about all images say of this one, the next; labels uint8 (H, W)."""
        height, width = labels.shape
        counts = cv2.calcHist([labels], [0], None, [256], [0, 256])  # nine times as fast as np.unique
        found = [self.classes[k - 1] for k in np.flatnonzero(counts).tolist() if 0 < k < UNLABELED]
        self.rows.append([image_id, path.as_posix(), width, height, "|".join(found)])
        if self.polygons:
            number = len(self.rows)
            self.images.append({"id": number, "file_name": path.as_posix(), "width": width, "height": height})
            self.annotations += annotations_of(labels, image_id=number)

    def finish(self) -> None:
        write_classes(self.folder / "classes.txt", self.classes)
        write_csv(self.folder / "images.csv", COLUMNS, self.rows)
        if self.polygons:
            document = coco_document(self.images, self.annotations, self.classes)
            write_text(self.folder / "polygons.json", json.dumps(document) + "\n")
