"""What can be said of seeds without masks: what two witnesses tell of each other, where borders lie, what stays."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsrg.method.grid import UNLABELED


def mutual_information(tables: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits that one claim about pixels tells about another, over a set of images, and the standard error of that.

    Where two claims err independently of each other, it is no more than what either tells about the truth (data
    processing inequality; Cover and Thomas, Elements of Information Theory, section 2.8). The error is that of a mean
    over images (delta method).

    >>> same, chance = np.array([[[0.5, 0.0], [0.0, 0.5]]]), np.full((1, 2, 2), 0.25)
    >>> float(mutual_information(same)[0]), float(mutual_information(chance)[0])
    (1.0, 0.0)

    tables float64 (N, ..., R, K), of N images: shares of pixels, each table's sum 1, of which one claim says r of R
    things and the other k of K -> float64 (...) both.
    """
    joint = tables.mean(axis=0)
    alone = joint.sum(axis=-1, keepdims=True) * joint.sum(axis=-2, keepdims=True)
    pointwise = np.log2(np.divide(joint, alone, out=np.ones_like(joint), where=joint > 0))
    of_each = (tables * pointwise).sum(axis=(-2, -1))
    return of_each.mean(axis=0), of_each.std(axis=0) / np.sqrt(len(tables))


def split_tables(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tables of a claim with L + 1 levels as those of its L thresholds: (N, L + 1, K) -> (N, L, 2, K).

    [:, t, 0] is what lies at the levels up to t, [:, t, 1] what lies above.
    """
    below = tables.cumsum(axis=1)[:, :-1]
    return np.stack([below, tables.sum(axis=1, keepdims=True) - below], axis=2)


def border_steps(labels: Tensor, values: Tensor) -> Tensor:
    """How steep an image is along the borders of label maps: sum of its steps there and their number, float64 (P, 2).

    A step is the distance between the values, float (c, h, w), of two pixels side by side or one above the other; it
    lies on a border when their labels, (P, h, w) of any type, differ.
    """
    total = torch.zeros(len(labels), 2, dtype=torch.float64)
    for dim in (1, 2):
        steps = values.diff(dim=dim).double().norm(dim=0)
        near, far = (labels.narrow(dim, start, labels.shape[dim] - 1) for start in (0, 1))
        border = (near != far).double()
        total += torch.stack([(border * steps).sum(dim=(1, 2)), border.sum(dim=(1, 2))], dim=1)
    return total


def foreground_overlap(first: Tensor, second: Tensor) -> Tensor:
    """What two label maps have in common of foreground: uint8 (P, h, w) both, 255 unlabeled -> int64 (P, 2).

    The pixels of the same class in both, counted once for each map, and the foreground pixels of both.
    """
    marked = [(labels > 0) & (labels != UNLABELED) for labels in (first, second)]
    both = 2 * (marked[0] & (first == second)).sum(dim=(1, 2))
    return torch.stack([both, sum(one.sum(dim=(1, 2)) for one in marked)], dim=1)
