"""Which images are worth a person's clicks, and why: from what a run knows of its training images, without masks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dsrg.method.grid import UNLABELED
from dsrg.params import Params


class Evidence(NamedTuple):
    """What is known of one image on its grid; None or empty: not known.

    present bool (C+1,); seeds uint8 (h, w), as made; cams float (h, w) of each tagged class and saliency float (h, w),
    0..1; grown uint8 (h, w), in the order of the steps at which they were recorded; probs float (C+1, h, w) of the
    network without a CRF.
    """

    present: NDArray[np.bool_]
    seeds: NDArray[np.uint8]
    cams: Sequence[NDArray[np.floating]] = ()
    saliency: NDArray[np.floating] | None = None
    grown: Sequence[NDArray[np.uint8]] = ()
    probs: NDArray[np.floating] | None = None


WHY = {
    "disputed": "CAM and saliency disagree on {:.0%}",
    "flipped": "growth flips between steps on {:.0%}",
    "unsure": "network unsure of a region of {:.0%}",
}


class ClickValue(NamedTuple):
    """What clicks on an image may bring: tags without a seed, 1..C, and shares of its cells, 0..1, by keys of WHY."""

    unseeded: list[int]
    shares: dict[str, float]

    @property
    def priority(self) -> float:
        """The number of tags without a seed, and beyond that the largest share; 0: clicks bring nothing."""
        return len(self.unseeded) + max(self.shares.values(), default=0.0)

    def reasons(self, classes: list[str]) -> list[str]:
        """In words, what matters most first."""
        shares = sorted(self.shares.items(), key=lambda pair: -pair[1])
        named = [f"no seed of {', '.join(classes[k - 1] for k in self.unseeded)}"] * bool(self.unseeded)
        return named + [WHY[key].format(share) for key, share in shares if share]


def click_value(known: Evidence, params: Params) -> ClickValue:
    """What clicks on an image may bring, by the thresholds of params `seeds` and `clicks`."""
    shares = {"flipped": flipped_share(known.grown)}
    if known.saliency is not None:
        thresholds = {"fg_thresh": params.seeds.fg_thresh, "bg_thresh": params.seeds.bg_thresh}
        shares["disputed"] = disputed_share(known.cams, known.saliency, **thresholds)
    if known.probs is not None:
        shares["unsure"] = unsure_share(known.probs, known.present, below=params.clicks.unsure_below)
    return ClickValue(unseeded_tags(known.seeds, known.present), shares)


def work_minutes(present: NDArray[np.bool_], params: Params) -> float:
    """How long it takes to look at images and click on each of their tags once: bool (N, C+1) -> minutes."""
    clicks = int(present[:, 1:].sum())
    return (len(present) * params.clicks.per_image + clicks * params.clicks.per_click) / 60


def unseeded_tags(seeds: NDArray[np.uint8], present: NDArray[np.bool_]) -> list[int]:
    """The tagged classes, 1..C, of which no cell is a seed."""
    return sorted({*(np.flatnonzero(present[1:]) + 1).tolist()} - {*np.unique(seeds).tolist()})


def disputed_share(
    cams: Sequence[NDArray[np.floating]], saliency: NDArray[np.floating], *, fg_thresh: float, bg_thresh: float
) -> float:
    """Share of the cells that either some class's activation or saliency calls an object, but not both."""
    fires = np.zeros(saliency.shape, bool)
    for cam in cams:
        fires |= cam > fg_thresh  # as in `make_seeds`
    return float((fires != (saliency >= bg_thresh)).mean())


def flipped_share(grown: Sequence[NDArray[np.uint8]]) -> float:
    """Share of the cells to which two successive maps of labels give two classes."""
    flipped = [(a != b) & (a != UNLABELED) & (b != UNLABELED) for a, b in pairwise(grown)]
    return float(np.logical_or.reduce(flipped).mean()) if flipped else 0.0


def unsure_share(probs: NDArray[np.floating], present: NDArray[np.bool_], *, below: float) -> float:
    """Share of the cells in the largest connected region whose likeliest tag (or background) is less probable."""
    unsure = (probs[present].max(axis=0) < below).astype(np.uint8)
    _, _, regions, _ = cv2.connectedComponentsWithStats(unsure, connectivity=4)
    return float(regions[1:, cv2.CC_STAT_AREA].max(initial=0) / unsure.size)
