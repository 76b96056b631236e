"""How good a label map is: intersection over union from a confusion matrix, seed precision and recall."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dsrg.method.grid import UNLABELED

BLOCK = 1 << 20  # pixels counted at a time: NumPy takes 8 bytes for each


def confusion_matrix(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], *, classes: int) -> NDArray[np.int64]:
    """Pixel counts (classes + 1, classes + 2): rows truth 0..C, columns predicted 0..C and, last, unlabeled (255).

    Pixels whose truth is 255 (void) are left out. ValueError if the shapes differ or a label is neither 0..C nor 255.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"shapes differ: truth {truth.shape}, predicted {predicted.shape}")
    pairs = (truth.astype(np.uint16) << 8 | predicted).ravel()
    blocks = np.array_split(pairs, 1 + pairs.size // BLOCK)
    counts = sum(np.bincount(block, minlength=1 << 16) for block in blocks).reshape(256, 256)
    for name, found in (("truth", counts.sum(axis=1)), ("predicted", counts.sum(axis=0))):
        if (strange := classes + 1 + np.flatnonzero(found[classes + 1 : UNLABELED])).size:
            raise ValueError(f"{name}: expected labels 0 to {classes} or {UNLABELED}, found {strange.tolist()}")
    return counts[: classes + 1, [*range(classes + 1), UNLABELED]]


def total_confusion(
    truths: Iterable[NDArray[np.uint8]], predictions: Iterable[NDArray[np.uint8]], *, classes: int
) -> NDArray[np.int64]:
    """Confusion matrix (C+1, C+2) summed over images, see `confusion_matrix`."""
    total = np.zeros((classes + 1, classes + 2), np.int64)
    for mask, predicted in zip(truths, predictions, strict=True):
        total += confusion_matrix(mask, predicted, classes=classes)
    return total


def iou_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """TP / (truth + predicted - TP) per class, (C+1,); NaN where a class is in neither truth nor prediction.

    An unlabeled prediction counts as a miss of its true class.
    """
    hits = np.diag(confusion).astype(np.float64)
    return _share(hits, confusion.sum(axis=1) + confusion[:, : len(hits)].sum(axis=0) - hits)


def mean_iou(iou: NDArray[np.float64]) -> float:
    """Mean over background and the classes that occur; NaN where no class does: background alone says nothing.

    A class without a hit stays in, with 0 (the released script drops it).
    """
    return float(np.nanmean(iou)) if np.isfinite(iou[1:]).any() else float("nan")


def mean_iou_of_hits(iou: NDArray[np.float64]) -> float:
    """Mean over the classes with at least one pixel right: the optimistic mean of the released `evaluate.py`."""
    hits = iou[np.nan_to_num(iou) > 0]
    return float(hits.mean()) if hits.size and np.isfinite(iou[1:]).any() else float("nan")


def pixel_accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of known pixels that are right; NaN without any."""
    return float(_share(np.trace(confusion), confusion.sum()))


def coverage(confusion: NDArray[np.int64]) -> float:
    """Share of known pixels that carry a label at all; NaN without any."""
    return float(1 - _share(confusion[:, -1].sum(), confusion.sum()))


def precision_recall(confusion: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per class (C+1,): the share of what is labeled so that is right, and the share of the truth that is found."""
    hits = np.diag(confusion).astype(np.float64)
    return _share(hits, confusion[:, : len(hits)].sum(axis=0)), _share(hits, confusion.sum(axis=1))


def label_quality(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Partial label maps: precision and recall of foreground (all classes together) and background, mIoU, coverage."""
    hits = np.diag(confusion)
    precision, recall = precision_recall(confusion)
    return {
        "fg_precision": float(_share(hits[1:].sum(), confusion[:, 1:-1].sum())),
        "fg_recall": float(_share(hits[1:].sum(), confusion[1:].sum())),
        "bg_precision": float(precision[0]),
        "bg_recall": float(recall[0]),
        "miou": mean_iou(iou_per_class(confusion)),
        "coverage": coverage(confusion),
    }


def _share(part: NDArray, whole: NDArray) -> NDArray[np.float64]:
    """part / whole; NaN where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
