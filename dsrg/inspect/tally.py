"""How much of a whole data set any thresholds would cover, counted once so that every question after is a look-up.

Each image is run through `make_seeds` at every foreground threshold of a list. What a background threshold adds to
that is a matter of each cell's saliency alone, so one count of cells by saliency serves all background thresholds. The
tables are exact: tests/test_inspect.py holds them against making the seeds anew for every pair.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dsrg.inspect.reseeding import SeedMaps, live_seeds
from dsrg.method.grid import UNLABELLED
from dsrg.method.points import NO_MARK
from dsrg.method.seeds import make_seeds
from dsrg.params import SeedParams


def threshold_steps(value: float) -> list[float]:
    """The thresholds on offer: every hundredth from 0 to 1, and the value that params.yaml has."""
    return sorted({round(step / 100, 2) for step in range(101)} | {value})


class Coverage(NamedTuple):
    """Shares of all cells, 0..1, over the images counted so far."""

    foreground: float
    background: float

    @property
    def labelled(self) -> float:
        return self.foreground + self.background


class Tally:
    """Counts of labelled cells over images, for every pair of thresholds in the lists `fg` and `bg`."""

    def __init__(self, settings: SeedParams) -> None:
        self.settings = settings
        self.fg, self.bg = threshold_steps(settings.fg_thresh), threshold_steps(settings.bg_thresh)
        self.foreground = np.zeros((len(self.fg), len(self.bg)), np.int64)
        self.background = np.zeros_like(self.foreground)
        self.cells = self.images = 0

    def add(self, maps: SeedMaps, marks: NDArray[np.int16] | None = None) -> None:
        """Count one image (B = 1), whose points say `marks` of its cells (h, w), see `mark_cells`."""
        self.images += 1
        self.cells += maps.labels.numel()
        free = np.ones(maps.labels.shape[1:], bool) if marks is None else marks == NO_MARK
        if marks is not None:  # whatever the thresholds
            self.background += int((marks == 0).sum())
            self.foreground += int(((marks > 0) & (marks != UNLABELLED)).sum())
        if not self.settings.thresholded:
            labels = live_seeds(maps, self.settings, fg_thresh=0, bg_thresh=0)[0].numpy()[free]
            self.background += int((labels == 0).sum())
            self.foreground += int(((labels > 0) & (labels != UNLABELLED)).sum())
            return
        fires, unclaimed = (cells & free for cells in self._at_every_fg(maps))
        # the place in `bg` of the first threshold above a cell's saliency
        first = np.searchsorted(np.array(self.bg, np.float32), maps.saliency[0].numpy(), side="right")
        for row in range(len(self.fg)):
            classes, rest = (np.bincount(first[cells[row]], minlength=len(self.bg) + 1) for cells in (fires, unclaimed))
            salient_enough = classes.sum() - classes[:-1].cumsum()
            self.foreground[row] += classes.sum() if self.settings.conflict == "smaller" else salient_enough
            self.background[row] += rest[:-1].cumsum()

    def _at_every_fg(self, maps: SeedMaps) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Cells that would be seeds of a class, or of background, if their saliency were right: bool (F, h, w) each."""
        tagged = maps.present[0, 1:].nonzero()[:, 0]
        if not len(tagged):
            tagged = torch.tensor([0])  # its map is 0, so it claims nothing
        steps = len(self.fg)  # the foreground thresholds are the batch
        cams = maps.cams[:, tagged].expand(steps, -1, -1, -1)
        saliency = maps.saliency.expand(steps, -1, -1)
        present = torch.ones(steps, len(tagged) + 1, dtype=torch.bool)
        fg_thresh = torch.tensor(self.fg).view(-1, 1, 1, 1)

        def made(*, bg_thresh: float, conflict: str) -> torch.Tensor:
            return make_seeds(cams, saliency, present, fg_thresh=fg_thresh, bg_thresh=bg_thresh, conflict=conflict)

        classes = made(bg_thresh=0, conflict=self.settings.conflict)  # no saliency is below 0
        unclaimed = made(bg_thresh=2, conflict="smaller") == 0  # every saliency is below 2
        fires = classes != UNLABELLED
        if self.settings.crf.use == "agree":
            numbers = torch.cat([torch.tensor([0]), tagged + 1])
            fires &= numbers[torch.where(fires, classes, 0).long()] == maps.labels
            unclaimed &= maps.labels == 0
        return fires.numpy(), unclaimed.numpy()

    def coverage(self, *, fg_thresh: float, bg_thresh: float) -> Coverage | None:
        """Of the images counted so far; None before the first, and for thresholds that are not in the lists."""
        if not self.images or fg_thresh not in self.fg or bg_thresh not in self.bg:
            return None
        place = self.fg.index(fg_thresh), self.bg.index(bg_thresh)
        return Coverage(float(self.foreground[place] / self.cells), float(self.background[place] / self.cells))
