"""Growth as the released code does it, the opponent of `benchmarks.growth`: one image, then one pixel after the other.

`generate_seed_step` of the released `pylayers.py` and its labeling of components (`CC_labeling_8.py`), written down
anew: the same passes in the same order, over NumPy arrays read element by element. Left out, in its favor: a table of
the regions' neighbors that it fills and growth never asks for. The released layer spreads images over processes.
"""

import numpy as np
from numpy.typing import NDArray


def released_growth(
    cues: NDArray, probs: NDArray, present: NDArray[np.bool_], *, fg_thresh: float, bg_thresh: float
) -> NDArray:
    """Grown cues of one image: cues (C+1, h, w) of 0 and 1, probs (C+1, h, w), present (C+1,) -> as cues."""
    tagged = np.flatnonzero(present)
    winner, highest = probs[tagged].argmax(axis=0), probs[tagged].max(axis=0)
    regions = np.zeros(winner.shape)
    classes, rows, columns = np.nonzero(cues)
    regions[rows, columns] = classes + 1
    for pixel, value in np.ndenumerate(highest):
        best = tagged[winner[pixel]]
        if value > fg_thresh and (best != 0 or value > bg_thresh):
            regions[pixel] = best + 1
    grown = cues.copy()
    for number in tagged:
        mask = (regions == number + 1).astype(int)
        components = two_pass_components(mask)
        seeded = set()
        for (y, x), inside in np.ndenumerate(mask):
            if inside == 1 and cues[number, y, x] == 1:
                seeded.add(components[y][x])
            elif inside == 1 and np.sum(cues[:, y, x]) == 1:
                components[y][x] = -1
        for (y, x), component in np.ndenumerate(np.array(components)):
            if component in seeded:
                grown[number, y, x] = 1
    return grown


def two_pass_components(mask: NDArray) -> list[list[int]]:
    """Numbers of the 8-connected regions of equal values, (h, w): the regions of 0 are labeled too."""
    height, width = mask.shape
    labels = [[0] * width for _ in range(height)]
    forest = Forest()
    for y in range(height):
        for x in range(width):
            known = []
            for row, column in ((y, x - 1), (y - 1, x), (y - 1, x - 1), (y - 1, x + 1)):
                if row >= 0 and 0 <= column < width and mask[row][column] == mask[y][x]:
                    known.append(labels[row][column])
            if not known:
                labels[y][x] = forest.add()
                continue
            labels[y][x] = min(known)
            for one, other in zip(known, known[1:], strict=False):
                forest.join(one, other)
    for y in range(height):
        for x in range(width):
            labels[y][x] = forest.root(labels[y][x])
    return labels


class Forest:
    """Disjoint sets of labels, joined by rank."""

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.ranks: list[int] = []

    def add(self) -> int:
        self.parents.append(len(self.parents))
        self.ranks.append(0)
        return self.parents[-1]

    def root(self, label: int) -> int:
        if self.parents[label] != label:
            self.parents[label] = self.root(self.parents[label])
        return self.parents[label]

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.root(one), self.root(other)), key=lambda root: self.ranks[root])
        if low != high:
            self.parents[low] = high
            self.ranks[high] += self.ranks[low] == self.ranks[high]
