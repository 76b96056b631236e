"""How much of a whole data set any thresholds would cover, counted once so that every question after is a look-up.

Each image is run through `make_seeds` at every foreground threshold of a list. What a background threshold adds to
that is a matter of each cell's saliency alone, so one count of cells by saliency serves all background thresholds. The
table is exact: tests/test_inspect.py compares it with seeds made anew for every pair.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsrg.inspect.reseeding import SeedMaps, live_seeds, own_classes, seeds_at
from dsrg.method.grid import UNLABELED
from dsrg.method.points import NO_MARK
from dsrg.method.seeds import with_crf_labels
from dsrg.params import SeedParams


def threshold_steps(value: float) -> list[float]:
    """The thresholds on offer: every hundredth from 0 to 1, and the value that params.yaml has."""
    return sorted({round(step / 100, 2) for step in range(101)} | {value})


class Tally:
    """Counts of labeled cells over images, for every pair of thresholds in the lists `fg` and `bg`."""

    def __init__(self, settings: SeedParams) -> None:
        self.settings = settings
        self.fg, self.bg = threshold_steps(settings.fg_thresh), threshold_steps(settings.bg_thresh)
        self.labeled = np.zeros((len(self.fg), len(self.bg)), np.int64)
        self.cells = self.images = 0

    def add(self, maps: SeedMaps, marks: NDArray[np.int16] | None = None) -> None:
        """Count one image (B = 1), whose points say `marks` of its cells (h, w), see `mark_cells`."""
        self.images += 1
        self.cells += maps.labels.numel()
        free = np.ones(maps.labels.shape[1:], bool) if marks is None else marks == NO_MARK
        if marks is not None:  # whatever the thresholds
            self.labeled += int((~free & (marks != UNLABELED)).sum())
        if not self.settings.thresholded:
            labels = live_seeds(maps, self.settings, fg_thresh=0, bg_thresh=0)[0].numpy()
            self.labeled += int((labels[free] != UNLABELED).sum())
            return
        maps = own_classes(maps, 0)
        fires = self._seeds(maps, bg_thresh=0, conflict=self.settings.conflict) != UNLABELED  # no saliency is below 0
        unclaimed = self._seeds(maps, bg_thresh=2, conflict="smaller") == 0  # every saliency is below 2
        # the place in `bg` of the first threshold above a cell's saliency
        first = np.searchsorted(np.array(self.bg, np.float32), maps.saliency[0].numpy(), side="right")
        for row, cells in enumerate(zip(fires.numpy() & free, unclaimed.numpy() & free, strict=True)):
            classes, rest = (np.bincount(first[own], minlength=len(self.bg) + 1) for own in cells)
            salient_enough = classes.sum() - classes[:-1].cumsum()
            self.labeled[row] += classes.sum() if self.settings.conflict == "smaller" else salient_enough
            self.labeled[row] += rest[:-1].cumsum()

    def _seeds(self, maps: SeedMaps, *, bg_thresh: float, conflict: str) -> Tensor:
        """Seeds at every foreground threshold, uint8 (F, h, w)."""
        fg = torch.tensor(self.fg)
        seeds = seeds_at(maps, fg, torch.full_like(fg, bg_thresh), conflict=conflict)
        return with_crf_labels(seeds, maps.labels, use=self.settings.crf.use)

    def coverage(self, *, fg_thresh: float, bg_thresh: float) -> float | None:
        """Share of the cells, 0..1, of the images counted so far; None before the first, and for thresholds that are
        not in the lists."""
        if not self.images or fg_thresh not in self.fg or bg_thresh not in self.bg:
            return None
        return float(self.labeled[self.fg.index(fg_thresh), self.bg.index(bg_thresh)] / self.cells)
