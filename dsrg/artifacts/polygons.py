"""Label maps as polygons in a COCO JSON file, which labeling tools read and this project's own source `coco` too."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from dsrg.method.grid import UNLABELED


def coco_document(images: Iterable[dict], annotations: Iterable[dict], classes: list[str]) -> dict:
    """A whole COCO document of images and of `annotations_of` them; category k is class k."""
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    annotations = [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)]
    return {"images": list(images), "annotations": annotations, "categories": categories}


def annotations_of(labels: NDArray[np.uint8], *, image_id: int) -> Iterator[dict]:
    """COCO annotations of a label map (H, W): one a connected region (8 neighbors) of a class, exactly its pixels.

    A region is no object: touching objects of a class are one, an object cut in two are two. 0 and 255 have none.
    """
    for number in np.unique(labels[(labels != 0) & (labels != UNLABELED)]).tolist():
        count, regions, stats, _ = cv2.connectedComponentsWithStats((labels == number).astype(np.uint8), connectivity=8)
        for region in range(1, count):
            left, top, width, height, area = stats[region].tolist()
            inside = regions[top : top + height, left : left + width] == region
            yield {
                "image_id": image_id,
                "category_id": number,
                "segmentation": [
                    (ring.reshape(-1, 2) + (left, top)).ravel().tolist() for ring in polygon_outlines(inside)
                ],
                "area": area,
                "bbox": [left, top, width, height],
                "iscrowd": 0,
            }


def polygon_outlines(inside: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Polygons (2 n,), x and y in turn, along the edges of the pixels of a mask (H, W), which are together its area.

    COCO's polygons have no holes, so a region with holes is cut at the left of one until none is left.

    >>> polygon_outlines(np.array([[True, True], [True, False]]))[0].tolist()
    [0, 0, 0, 2, 1, 2, 1, 1, 2, 1, 2, 0]
    """
    # In a mask enlarged twice the outline runs through pixels whose coordinates give the corners when halved.
    twice = np.repeat(np.repeat(inside.astype(np.uint8), 2, axis=0), 2, axis=1)
    outlines, hierarchy = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    holes = [outline for outline, links in zip(outlines, hierarchy[0], strict=True) if links[3] >= 0]
    if not holes:
        return [_corners((outline[:, 0] + 1) // 2) for outline in outlines]
    lefts = sorted(int((hole[:, 0, 0].min() + 1) // 2) for hole in holes)
    cut = lefts[len(lefts) // 2]
    left, right = inside[:, :cut], inside[:, cut:]
    shifted = [(ring.reshape(-1, 2) + (cut, 0)).ravel() for ring in polygon_outlines(right)]
    return [*polygon_outlines(left), *shifted]


def _corners(path: NDArray[np.int32]) -> NDArray[np.int64]:
    """A closed path (n, 2) of steps along the grid or none -> its corners alone, x and y in turn."""
    path = path[np.any(path != np.roll(path, 1, axis=0), axis=1)].astype(np.int64)
    before, after = path - np.roll(path, 1, axis=0), np.roll(path, -1, axis=0) - path
    return path[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]].ravel()
