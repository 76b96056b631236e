"""What the seeds of a data set amount to: per class, per image and in all. Needs no ground truth."""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dsrg.artifacts.seeds_h5 import SeedRow
from dsrg.files import write_csv
from dsrg.method.grid import UNLABELED
from dsrg.method.seeds import seed_claims
from dsrg.params import SeedParams
from dsrg.runtime.progress import tracked


class ImageCount(NamedTuple):
    """One image. Shares of its cells, 0..1: `coverage`, those that are seeds; `clear`, seeds that only one class
    claimed; `conflicts`, cells that several did, None where seeds came without maps. `unseeded`: tags without a seed.
    """

    id: str
    coverage: float
    clear: float
    conflicts: float | None
    unseeded: list[str]


def row_claims(row: SeedRow, *, fg_thresh: float, bg_thresh: float) -> NDArray[np.bool_] | None:
    """Which of background and the image's tags claim a cell, bool (k+1, h, w), see `seed_claims`; None without maps."""
    if np.isnan(row.saliency).all():
        return None
    maps = torch.from_numpy(row.cams)[None].float(), torch.from_numpy(row.saliency)[None].float()
    present = torch.ones(1, len(row.cams) + 1, dtype=torch.bool)
    return seed_claims(*maps, present, fg_thresh=fg_thresh, bg_thresh=bg_thresh)[0].numpy()


class SeedCounts:
    """Counts seeds while they pass: first `watch`, then the tables."""

    def __init__(self, classes: list[str], settings: SeedParams) -> None:
        self.classes, self.settings = ["background", *classes], settings
        self.pixels, self.tagged, self.seeded, self.conflicts = np.zeros((4, len(self.classes)), np.int64)
        self.total = self.disputed = 0
        self.images: list[ImageCount] = []

    def watch(self, rows: Iterable[SeedRow], *, name: str, total: int) -> Iterator[SeedRow]:
        for row in tracked(rows, name, total):
            self._add(row)
            yield row

    def _add(self, row: SeedRow) -> None:
        labeled = row.seeds != UNLABELED
        pixels = np.bincount(row.seeds[labeled], minlength=len(self.classes))
        seeded = (pixels > 0) & row.present
        self.pixels += pixels
        self.tagged += row.present
        self.seeded += seeded
        self.total += row.seeds.size
        claims = row_claims(row, fg_thresh=self.settings.fg_thresh, bg_thresh=self.settings.bg_thresh)
        disputed = np.zeros_like(labeled) if claims is None else claims.sum(axis=0) > 1
        if claims is not None:
            self.conflicts[[0, *row.cam_class]] += (claims & disputed).sum(axis=(1, 2))
            self.disputed += disputed.sum()
        unseeded = [self.classes[number] for number in np.flatnonzero(row.present & ~seeded) if number]
        shares = labeled.mean(), (labeled & ~disputed).mean(), disputed.mean()
        coverage, clear, conflicts = (float(share) for share in shares)
        self.images.append(ImageCount(row.image_id, coverage, clear, None if claims is None else conflicts, unseeded))

    @property
    def _knows_claims(self) -> bool:
        return all(image.conflicts is not None for image in self.images)

    def metrics(self) -> dict[str, object]:
        """Share of all cells that are seeds (the mean over images: all have the same grid), of foreground, of
        background, that several classes claimed, and of tags that got a seed; tagged classes without a seed anywhere.
        """
        unseeded = np.flatnonzero((self.tagged > 0) & (self.seeded == 0))
        return {
            "coverage": float(self.pixels.sum() / self.total),
            "foreground": float(self.pixels[1:].sum() / self.total),
            "background": float(self.pixels[0] / self.total),
            "conflicts": float(self.disputed / self.total) if self._knows_claims else None,
            "tags_seeded": float(self.seeded[1:].sum() / max(self.tagged[1:].sum(), 1)),
            "unseeded_classes": [self.classes[number] for number in unseeded if number],
        }

    def write_classes(self, path: Path) -> None:
        """CSV, a line a class: images with the tag, those with and without a seed of it, cells that are its seeds,
        their share of all cells, and cells that it claimed, but not alone (empty where seeds came without maps).
        """
        header = ["class", "images", "images_seeded", "images_unseeded", "pixels", "coverage", "conflicts"]
        coverage = (self.pixels / self.total).round(6)
        conflicts = self.conflicts if self._knows_claims else [""] * len(self.classes)
        columns = self.tagged, self.seeded, self.tagged - self.seeded, self.pixels, coverage, conflicts
        write_csv(path, header, zip(self.classes, *columns, strict=True))

    def write_images(self, path: Path) -> None:
        """CSV, a line an image: shares of its cells as in `ImageCount`, its tags without a seed joined by |."""
        rows = (
            (image.id, *("" if share is None else round(share, 6) for share in image[1:4]), "|".join(image.unseeded))
            for image in self.images
        )
        write_csv(path, ["id", "coverage", "clear", "conflicts", "unseeded"], rows)


def best_worst_random(images: list[ImageCount], count: int) -> dict[str, list[ImageCount]]:
    """`count` images each: with most seeds that nobody disputes, with fewest, and a draw.

    An image with more tags that lack a seed is worse, whatever its coverage. The draw is by a hash of the ids, so that
    two runs over the same images show the same ones.
    """
    ranked = sorted(images, key=lambda image: (len(image.unseeded), -image.clear))
    drawn = sorted(images, key=lambda image: sha256(image.id.encode()).digest())
    return {"best": ranked[:count], "worst": ranked[::-1][:count], "random": drawn[:count]}
