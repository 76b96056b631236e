"""Points and strokes that people set on an image, as labels of cells of the seed grid.

Not of the paper, whose seeds come from maps alone; but its growth takes any pixel with a class for a seed, and points
as supervision of segmentation are those of Bearman et al. (What's the Point, ECCV 2016) and, for strokes, of Lin et
al. (ScribbleSup, CVPR 2016).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy, where

from dsrg.method.grid import UNLABELED

NO_MARK = -1  # a cell that no point or stroke covers
CHUNK = 512  # segments whose distances are held at once, 8 bytes a cell


@dataclass(frozen=True, eq=False)
class Mark:
    """One point or stroke.

    label: 0 background, 1..C a class, UNLABELED: erases.
    radius: pixels of the image; 0 = the cell under the point, or the cells under the line.
    path: float (K, 2), x and y in pixels of the image, 0..width and 0..height; K = 1: a point.
    """

    label: int
    radius: float
    path: NDArray[np.float64]


def mark_cells(
    marks: Sequence[Mark], *, height: int, width: int, grid: int, classes: int
) -> tuple[NDArray[np.int16], int]:
    """What the marks of one image say of each cell.

    The grid's corner cells lie on the image's corner pixels. A mark covers the cell nearest to each pixel of its path,
    so that none is lost between cells, and all cells whose pixels are at most `radius` away from it. Every mark of a
    class has one vote in each cell that it covers; the cell goes to the class with most votes, and stays unlabeled
    where two have as many. Erasing marks have no vote: they unlabel what no other mark covers.

    height, width: of the image, pixels. grid: cells along a side. classes: C, without background. Returns int16 (grid,
    grid), NO_MARK, the label 0..C, or UNLABELED, and the number of cells with a tie.
    """
    votes = np.zeros((classes + 1, grid, grid), np.int32)
    erased = np.zeros((grid, grid), bool)
    if marks:
        covered = _covered(marks, height=height, width=width, grid=grid)
        for mark, cells in zip(marks, covered, strict=True):
            if mark.label == UNLABELED:
                erased |= cells
            else:
                votes[mark.label] += cells
    most = votes.max(axis=0)
    tied = ((votes == most).sum(axis=0) > 1) & (most > 0)
    labels = np.where(most > 0, np.where(tied, UNLABELED, votes.argmax(axis=0)), NO_MARK)
    return np.where((most == 0) & erased, UNLABELED, labels).astype(np.int16), int(tied.sum())


class PointCounts:
    """What the points of a data set amount to: images, points, strokes, erasures, labeled cells, cells with a tie, and
    the points and strokes of each label, 0..C."""

    def __init__(self) -> None:
        self.images = self.points = self.strokes = self.erasures = self.cells = self.ties = 0
        self.labels: Counter[int] = Counter()

    def add(self, marks: Sequence[Mark], cells: NDArray[np.int16], ties: int) -> None:
        """Count one image's marks and what `mark_cells` made of them."""
        erasures = sum(mark.label == UNLABELED for mark in marks)
        strokes = sum(mark.label != UNLABELED and len(mark.path) > 1 for mark in marks)
        self.images += 1
        self.points += len(marks) - strokes - erasures
        self.strokes += strokes
        self.erasures += erasures
        self.cells += int(((cells != NO_MARK) & (cells != UNLABELED)).sum())
        self.ties += ties
        self.labels.update(mark.label for mark in marks if mark.label != UNLABELED)

    def metrics(self, classes: list[str]) -> dict[str, object]:
        """As JSON; `labels` by the names of `classes` (1..C) and background, without those that have none."""
        names = enumerate(["background", *classes])
        return vars(self) | {"labels": {name: self.labels[label] for label, name in names if self.labels[label]}}


def with_marks(seeds: Tensor, marks: NDArray[np.int16]) -> Tensor:
    """Made seeds, but for the cells that a mark covers: uint8 (..., h, w) and int16 (..., h, w) -> uint8 (..., h, w).

    A mark wins over every made seed.
    """
    own = from_numpy(marks)
    return where(own == NO_MARK, seeds, own.to(seeds.dtype))


def _covered(marks: Sequence[Mark], *, height: int, width: int, grid: int) -> NDArray[np.bool_]:
    """The cells that each mark covers, bool (marks, grid, grid)."""
    covered = np.zeros((len(marks), grid, grid), bool)
    size = np.array([width, height], np.float64)
    starts, ends, owners = [], [], []
    for number, mark in enumerate(marks):
        pixels = np.minimum(np.floor(mark.path), size - 1)  # the pixel under a place; at the far border the last one
        starts.append(pixels[: max(1, len(pixels) - 1)])
        ends.append(pixels[min(1, len(pixels) - 1) :])
        owners.append(np.full(len(starts[-1]), number))
    start, end, owner = (np.concatenate(parts) for parts in (starts, ends, owners))
    pitch = np.maximum(size - 1, 1) / (grid - 1)  # pixels from cell to cell

    steps = np.ceil(np.abs(end - start) / pitch).max(axis=1).astype(np.int64) * 2 + 1  # two in each cell on the way
    segment = np.repeat(np.arange(len(steps)), steps)
    part = (np.arange(len(segment)) - np.repeat(steps.cumsum() - steps, steps)) / np.maximum(steps - 1, 1)[segment]
    places = start[segment] + part[:, None] * (end - start)[segment]
    columns, rows = np.floor(places / pitch + 0.5).astype(np.int64).clip(0, grid - 1).T
    covered[owner[segment], rows, columns] = True

    radii = np.array([mark.radius for mark in marks])[owner]
    xs, ys = (np.arange(grid) * step for step in pitch)
    wide = np.flatnonzero(radii > 0)
    for some in np.array_split(wide, -(-len(wide) // CHUNK)) if len(wide) else ():
        near = _squared_distance(xs, ys, start[some], end[some]) <= radii[some, None, None] ** 2
        own, first = np.unique(owner[some], return_index=True)
        covered[own] |= np.logical_or.reduceat(near, first)
    return covered


def _squared_distance(
    xs: NDArray[np.float64], ys: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of the cells in columns xs (w,) and rows ys (h,) from each segment, start and end (S, 2) -> (S, h, w)."""
    (along_x, along_y), (x, y) = (pair.T[..., None, None] for pair in (end - start, start))
    from_x, from_y = xs[None, None] - x, ys[None, :, None] - y
    length = np.maximum(along_x**2 + along_y**2, 1e-12)
    part = ((from_x * along_x + from_y * along_y) / length).clip(0, 1)
    return (from_x - part * along_x) ** 2 + (from_y - part * along_y) ** 2
