"""Label maps against ground truth: only `audit` and `evaluate` use this."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.data.index import GroundTruth, Index
from dsrg.files import write_csv
from dsrg.method.metrics import (
    confusion_matrix,
    iou_per_class,
    mean_iou,
    mean_iou_of_hits,
    pixel_accuracy,
    precision_recall,
)


def with_ground_truth(index: Index, truth: dict[str, GroundTruth]) -> Index:
    """The images of the index that have a mask."""
    return index.pick([row for row, image_id in enumerate(index.ids) if image_id in truth])


def enlarge_grid(labels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A label map on the grid (h, w) at an image's size: every pixel takes the nearest cell (aligned corners)."""
    rows, columns = (
        np.rint(np.linspace(0, n - 1, side)).astype(int) for n, side in zip(labels.shape, shape, strict=True)
    )
    return labels[rows][:, columns]


def write_quality(path: Path, confusion: NDArray[np.int64], classes: list[str]) -> None:
    """Precision and recall per class; classes in neither truth nor labels have empty cells."""
    rows = zip(["background", *classes], *precision_recall(confusion), iou_per_class(confusion), strict=True)
    write_csv(path, ["class", "precision", "recall", "iou"], ([name, *map(_cell, values)] for name, *values in rows))


class Scores:
    """A network's confusion matrices over the evaluation split, without and with CRF."""

    def __init__(self, classes: list[str]) -> None:
        self.names = ["background", *classes]
        shape = len(self.names), len(self.names) + 1
        self.confusion, self.confusion_crf = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.images: list[float] = []  # each one's mIoU with CRF; NaN: no class in mask or prediction

    def add(self, mask: NDArray[np.uint8], *, labels: NDArray[np.uint8], labels_crf: NDArray[np.uint8]) -> None:
        classes = len(self.names) - 1
        self.confusion += confusion_matrix(mask, labels, classes=classes)
        own = confusion_matrix(mask, labels_crf, classes=classes)
        self.confusion_crf += own
        self.images.append(mean_iou(iou_per_class(own)))

    def metrics(self) -> dict[str, object]:
        """mIoU over the classes that occur in truth or prediction; `absent` names those that the truth lacks.

        `miou_of_hits` leaves out classes without a hit, as the released script does: to compare with published figures.
        """
        iou, iou_crf = iou_per_class(self.confusion), iou_per_class(self.confusion_crf)
        absent = [name for name, row in zip(self.names, self.confusion_crf, strict=True) if not row.sum()]
        return {
            "miou": mean_iou(iou),
            "miou_crf": mean_iou(iou_crf),
            "miou_of_hits": mean_iou_of_hits(iou),
            "miou_of_hits_crf": mean_iou_of_hits(iou_crf),
            "pixel_accuracy": pixel_accuracy(self.confusion),
            "pixel_accuracy_crf": pixel_accuracy(self.confusion_crf),
            "absent": absent,
        }

    def per_class(self, *, crf: bool) -> dict[str, float]:
        """IoU by class name, of classes in truth or prediction."""
        iou = iou_per_class(self.confusion_crf if crf else self.confusion)
        return {name: float(value) for name, value in zip(self.names, iou, strict=True) if np.isfinite(value)}

    def write_confusion(self, path: Path) -> None:
        """Long CSV actual,predicted,share (with CRF): of the pixels of a class, the share that was called so."""
        rows = []
        for actual, counts in zip(self.names, self.confusion_crf[:, :-1], strict=True):
            if counts.sum():
                shares = counts / counts.sum()
                rows += [(actual, predicted, _cell(share)) for predicted, share in zip(self.names, shares, strict=True)]
        write_csv(path, ["actual", "predicted", "share"], rows)


def score_table(scores: dict[str, Scores]) -> str:
    """mIoU of each network in percent, without and with CRF, as a small table; `-` where no class occurs."""
    rows = [("mIoU in %", "network alone", "with CRF")]
    for name, score in scores.items():
        means = (mean_iou(iou_per_class(confusion)) for confusion in (score.confusion, score.confusion_crf))
        rows.append((name, *(f"{100 * mean:.1f}" if np.isfinite(mean) else "-" for mean in means)))
    return "\n".join(f"{name:<10}{alone:>15}{with_crf:>10}" for name, alone, with_crf in rows)


def write_per_class(path: Path, scores: dict[str, Scores]) -> None:
    """CSV class, then IoU of each network without and with CRF; classes in neither truth nor prediction left out."""
    columns = {}
    for name, score in scores.items():
        columns[name], columns[f"{name}_crf"] = iou_per_class(score.confusion), iou_per_class(score.confusion_crf)
    names = next(iter(scores.values())).names
    rows = zip(names, *columns.values(), strict=True)
    kept = ([name, *map(_cell, values)] for name, *values in rows if np.isfinite(values).any())
    write_csv(path, ["class", *columns], kept)


def write_per_image(path: Path, ids: list[str], scores: dict[str, Scores]) -> None:
    """CSV id, then each network's mIoU with CRF on the image alone; empty where mask and prediction hold no class."""
    columns = (map(_cell, score.images) for score in scores.values())
    write_csv(path, ["id", *(f"{name}_crf" for name in scores)], zip(ids, *columns, strict=True))


def best_and_worst(images: dict[int, float], count: int) -> list[int]:
    """The `count` keys with the highest and those with the lowest values, each once; of equal values the first key's.

    >>> best_and_worst({0: 0.5, 1: 0.9, 2: 0.1, 3: 0.4, 4: float("nan")}, 1)
    [1, 2]
    """
    known = [key for key, value in sorted(images.items()) if np.isfinite(value)]
    best = sorted(known, key=images.get, reverse=True)[:count]
    worst = sorted(known, key=images.get)[:count]
    return list(dict.fromkeys([*best, *worst]))


def _cell(value: float) -> object:
    return round(float(value), 6) if np.isfinite(value) else ""
