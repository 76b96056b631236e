"""Seeds of a whole data set: activation maps in this process, saliency in others, rows for seeds.h5 in order."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dsrg.artifacts.cues import Cues, read_cues
from dsrg.artifacts.seeds_h5 import SeedRow
from dsrg.data.images import ExpectedChecksum, limit_side, read_gray, read_image
from dsrg.data.index import Index
from dsrg.errors import InputError
from dsrg.files import find_in_project
from dsrg.inference.cams import tag_maps
from dsrg.inference.crf import image_mean_field
from dsrg.inference.gradient_saliency import gradient_saliency
from dsrg.inference.preprocess import BATCH, SHARD, image_batches, sample_grid_pixels
from dsrg.method.crf_pydensecrf import Kernel
from dsrg.method.grid import grid_size
from dsrg.method.points import PointCounts, mark_cells, with_marks
from dsrg.method.saliency import combined
from dsrg.method.saliency.mbd import mbd
from dsrg.method.saliency.rbd import rbd
from dsrg.method.seeds import harmonic_seeds, make_seeds, tag_probs, with_background, with_crf_labels
from dsrg.networks.network import CamClassifier
from dsrg.params import Data, Saliency, SeedCrf, SeedParams
from dsrg.runtime import workers
from dsrg.runtime.launcher import WorkShard
from dsrg.runtime.resumable import Item, resumable_rows
from dsrg.sources.points import Points, read_points

SALIENCY = {"mbd": mbd, "rbd": rbd, "combined": combined}


def saliency_map(
    path: Path, expected: ExpectedChecksum | None = None, *, saliency: Saliency, grid: int, max_side: int | None = None
) -> NDArray[np.float32]:
    """One image's saliency by the chosen method, float32 (grid, grid), 0..1, corners on corners as released.

    `maps` reads a ready map (8- or 16-bit gray PNG, scaled to 0..1) from the file `path` instead of the image. The file
    must be the `expected` one; a larger image is looked at scaled down to `max_side`.
    """
    cv2.setNumThreads(1)  # processes use the cores already
    if saliency.method == "maps":
        ready = read_gray(path)
        values = ready.astype(np.float32) / np.iinfo(ready.dtype).max
    else:
        settings = {"mbd": saliency.mbd.model_dump(), "rbd": saliency.rbd.model_dump()}
        settings["combined"] = settings["mbd"] | settings["rbd"]
        image = limit_side(read_image(path, expected=expected), max_side)
        values = SALIENCY[saliency.method](image, **settings[saliency.method])
    whole = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    return F.interpolate(whole, (grid, grid), mode="bilinear", align_corners=True)[0, 0].numpy()


def ready_cues(seeds: SeedParams, index: Index, *, size: int, classes: list[str]) -> Cues:
    """The cues of `seeds.cues` for the images of an index, on the grid of squares of `size` pixels.

    See `read_cues`, which refuses any that do not fit their own grid, that of `seeds.cues_size`.
    """
    files = find_in_project(seeds.cues), find_in_project(seeds.cues_list)
    grid = grid_size(seeds.cues_size or size)
    cues = read_cues(*files, index, grid=grid, classes=classes, conflict="highest")  # as released
    return cues.resampled(grid_size(size))


def cue_seed_rows(cues: Cues, index: Index, *, size: int, seeds: SeedParams, saliency: Saliency) -> Iterator[SeedRow]:
    """Rows of seeds from ready cues: all of them, or their foreground and background where our saliency is low."""
    if seeds.cues_use == "all":
        yield from cues.rows()
        return
    maps = saliency_maps(index, saliency=saliency, grid=grid_size(size))
    for row, salient in zip(cues.rows(), maps, strict=True):
        labels = torch.from_numpy(row.seeds)[None], torch.from_numpy(salient)[None]
        chosen = with_background(*labels, bg_thresh=seeds.bg_thresh, conflict=seeds.conflict)
        yield replace(row, seeds=chosen[0].numpy())


def ready_points(data: Data, index: Index, classes: list[str]) -> Points:
    """The points of `data.points` (none where it is null), for the images of a whole index; see `read_points`."""
    if data.points is None:
        return Points()
    return read_points(find_in_project(data.points), index, classes, tags=data.points_tags, unknown=data.on_bad)


def with_points(
    rows: Iterable[SeedRow], points: Points, index: Index, *, classes: int, counts: PointCounts
) -> Iterator[SeedRow]:
    """Rows of seeds, in the order of the index, whose cells and tags are what points say of them; these are counted."""
    for row, height, width in zip(rows, index.heights.tolist(), index.widths.tolist(), strict=True):
        if marks := points.marks.get(row.image_id):
            cells, ties = mark_cells(marks, height=height, width=width, grid=len(row.seeds), classes=classes)
            counts.add(marks, cells, ties)
            present = row.present.copy()
            present[[*points.added.get(row.image_id, ())]] = True
            row = replace(row, seeds=with_marks(torch.from_numpy(row.seeds), cells).numpy(), present=present)
        yield row


def ready_maps(saliency: Saliency, ids: list[str]) -> list[Path]:
    """The files of `saliency.maps`. Raises InputError with every id that has none."""
    folder = find_in_project(saliency.maps)
    paths = [folder / f"{image_id}.png" for image_id in ids]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise InputError(f"saliency.maps: {saliency.maps}: no map {name}" for name in missing)
    return paths


def saliency_maps(index: Index, *, saliency: Saliency, grid: int) -> Iterator[NDArray[np.float32]]:
    """Saliency of every image, in order, over processes; raises InputError at once when ready maps are missing."""
    if saliency.method == "maps":
        jobs = ((path, None) for path in ready_maps(saliency, index.ids))
    else:
        jobs = ((index.root / path, index.expected(row)) for row, path in enumerate(index.paths))
    return workers.ordered_map(partial(_saliency_of, saliency=saliency, grid=grid, max_side=index.max_side), jobs)


def _saliency_of(job: tuple[Path, ExpectedChecksum | None], **settings: object) -> NDArray[np.float32]:
    return saliency_map(*job, **settings)


def resumable_seed_rows(
    classifier: CamClassifier, index: Index, *, share: WorkShard, **settings: object
) -> Iterator[SeedRow]:
    """`seed_rows`, those of a run that was killed and of other processes taken from files, see `resumable_rows`."""

    def make(rows: NDArray[np.int64]) -> Iterator[Item]:
        return map(vars, seed_rows(classifier, index.pick(rows), **settings))

    for item in resumable_rows(make, share, total=len(index), shard=SHARD):
        yield SeedRow(**item | {"image_id": str(item["image_id"])})


def seed_rows(
    classifier: CamClassifier, index: Index, *, size: int, seeds: SeedParams, saliency: Saliency, batch: int = BATCH
) -> Iterator[SeedRow]:
    """Seeds, saliency and the tagged classes' activation maps of each image of the index, in order.

    The saliency method `cam` has no saliency of its own: the highest map of a tagged class stands for it, so that
    background is where no class shows. `with_cam` takes the higher of both. `gradient` asks the classifier.
    """
    by_classifier = saliency.method in ("cam", "gradient")
    maps = None if by_classifier else saliency_maps(index, saliency=saliency, grid=grid_size(size))
    for rows, images in image_batches(index, batch=batch):
        present = torch.from_numpy(index.present[rows])
        cams = tag_maps(classifier, images, present, size=size, **seeds.maps_wanted)
        salient = active = cams.amax(dim=1)
        if saliency.method == "gradient":
            salient = gradient_saliency(classifier, images, size=size).cpu().half().float()
        elif maps is not None:
            salient = torch.from_numpy(np.stack([next(maps) for _ in rows])).half().float()
        if saliency.with_cam:
            salient = torch.maximum(salient, active)
        chosen = ruled_seeds(cams, salient, present, seeds)
        if seeds.crf.use != "none":
            labels = torch.stack(list(crf_labels(images, cams, salient, present, crf=seeds.crf)))
            chosen = with_crf_labels(chosen, labels, use=seeds.crf.use)
        for place, row in enumerate(rows):
            tagged = np.flatnonzero(index.present[row, 1:])
            yield SeedRow(
                index.ids[row],
                index.present[row],
                chosen[place].numpy(),
                salient[place].numpy(),
                cams[place, tagged].numpy(),
                (tagged + 1).astype(np.uint8),
            )


def ruled_seeds(cams: Tensor, saliency: Tensor, present: Tensor, settings: SeedParams) -> Tensor:
    """Seeds uint8 (B, h, w) of activation maps and saliency by `seeds.rule`, see `make_seeds`, `harmonic_seeds`."""
    if settings.rule == "harmonic":
        return harmonic_seeds(cams, saliency, present, thresh=settings.harmonic)
    thresholds = {"fg_thresh": settings.fg_thresh, "bg_thresh": settings.bg_thresh}
    return make_seeds(cams, saliency, present, **thresholds, conflict=settings.conflict)


def crf_labels(
    images: list[NDArray[np.uint8]], cams: Tensor, saliency: Tensor, present: Tensor, *, crf: SeedCrf
) -> Iterator[Tensor]:
    """What a fully connected CRF makes of the activation maps on the grid: a label map uint8 (h, w) an image.

    images uint8 (H, W, 3); cams float (B, C, h, w); saliency float (B, h, w); present bool (B, C+1).
    """
    kernel = Kernel(**crf.kernel)
    jobs = []
    for image, maps, salient, tags in zip(images, cams, saliency, present, strict=True):
        probs = tag_probs(maps, salient, tags, background=crf.background, min_prob=crf.min_prob)
        jobs.append((sample_grid_pixels(image, cams.shape[-1]).transpose(2, 0, 1), -probs.log().numpy(), kernel))
    for tags, probs in zip(present, workers.ordered_map(image_mean_field, jobs), strict=True):
        yield tags.nonzero()[:, 0][torch.from_numpy(probs).argmax(dim=0)].to(torch.uint8)
