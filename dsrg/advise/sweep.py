"""Which thresholds of seeds to take when there are no masks: a sweep over both, measured by tags and images alone.

Activation maps say where objects are, from tags; saliency says so from the image. They are two witnesses of the same
thing who know nothing of each other, so what the claim "above the threshold" of one tells of the other, in bits, is no
more than what it tells of the truth. Each threshold is advised where its claim tells most of the other map: no mask and
no constant is in that. What else there is to know of seeds the sweep shows: how much they cover, how often claims are
disputed, whether borders lie on edges, and whether seeds stay where they are when the classifier sees the picture
mirrored or at another size.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsrg.advise.information import border_steps, foreground_overlap, mutual_information, split_tables
from dsrg.artifacts.seeds_h5 import Seeds, read_seeds
from dsrg.data.index import Index
from dsrg.errors import InputError
from dsrg.inference.cams import load_classifier, tag_maps
from dsrg.inference.preprocess import image_batches, sample_grid_pixels
from dsrg.inspect.reseeding import SeedMaps, own_classes, seeds_at, stored_maps, why_fixed, with_crf
from dsrg.method.grid import UNLABELED
from dsrg.method.seeds import with_crf_labels
from dsrg.networks.network import CamClassifier
from dsrg.params import Params, Saliency, SeedParams
from dsrg.project import Project
from dsrg.runtime.progress import tracked

THRESHOLDS = [round(step / 20, 2) for step in range(1, 20)]  # tried, of foreground and of background: every twentieth
MEASURES = {  # of seeds at every pair of thresholds -> what it says
    "coverage": "share of cells that are seeds",
    "tags_seeded": "share of tags that got a seed",
    "conflict": "share of claimed cells that are disputed",
    "image_edges": "color step across seeds' borders, times the mean",
    "saliency_edges": "saliency step across objects' borders, times the mean",
    "flip": "foreground seeds shared with the mirror image",
    "scale": "foreground seeds shared with other sizes",
}


def other_looks(params: Params) -> dict[str, list[tuple[float, bool]]]:
    """How else the classifier looks at a picture, by measure: (scale of data.size, mirrored).

    The mirror image, and the sizes that seeds are averaged over or that the classifier was trained between.
    """
    augment = params.cam.augment
    scales = sorted({*params.seeds.scales, augment.scale_min, augment.scale_max} - {1.0})
    return {"flip": [(1.0, True)], "scale": [(scale, False) for scale in scales]}


class Advice(NamedTuple):
    """Of one threshold: bits that the claim "above it" tells of the other map and their standard error, at each value.

    values (T,); bits, error float64 (T,).
    """

    values: list[float]
    bits: NDArray[np.float64]
    error: NDArray[np.float64]

    @property
    def best(self) -> int:
        """Place of the value that tells most, the lowest of equals."""
        return int(self.bits.argmax())

    @property
    def is_informative(self) -> bool:
        return bool(self.bits[self.best] > self.error[self.best])

    @property
    def range(self) -> tuple[float, float]:
        """From the best value outwards as far as no more than one standard error is lost."""
        lacking = np.flatnonzero(~(self.bits >= self.bits[self.best] - self.error[self.best]))
        low = lacking[lacking < self.best].max(initial=-1) + 1
        high = lacking[lacking > self.best].min(initial=len(self.bits)) - 1
        return self.values[low], self.values[high]


class Sweep:
    """What seeds amount to at every pair of thresholds, F of foreground and B of background, image by image."""

    def __init__(self, settings: SeedParams, *, fg: list[float] = THRESHOLDS, bg: list[float] = THRESHOLDS) -> None:
        self.settings, self.fg, self.bg = settings, fg, bg
        self.fg_of_pair, self.bg_of_pair = torch.cartesian_prod(torch.tensor(fg), torch.tensor(bg)).T
        self.shares: dict[str, Tensor] = defaultdict(lambda: torch.zeros(len(self.bg_of_pair), 2, dtype=torch.float64))
        self.tables: list[NDArray[np.float64]] = []

    def seeds(self, maps: SeedMaps) -> Tensor:
        """Seeds of one image (B = 1) at every pair, uint8 (F * B, h, w)."""
        chosen = seeds_at(maps, self.fg_of_pair, self.bg_of_pair, conflict=self.settings.conflict)
        return with_crf_labels(chosen, maps.labels, use=self.settings.crf.use)

    def add(self, maps: SeedMaps, colors: Tensor, views: dict[str, list[SeedMaps]]) -> Tensor:
        """Count one image (B = 1) and its views by measure -> its seeds, see `seeds`.

        colors: float (c, h, w), the image on the grid.
        """
        pairs = self.fg_of_pair, self.bg_of_pair
        claimed, undisputed = (seeds_at(maps, *pairs, conflict=conflict) for conflict in ("smaller", "unlabeled"))
        chosen = {"smaller": claimed, "unlabeled": undisputed}[self.settings.conflict]
        seeds = with_crf_labels(chosen, maps.labels, use=self.settings.crf.use)
        fires = _is_object(claimed.view(len(self.fg), len(self.bg), *claimed.shape[1:])[:, 0])
        salient = maps.saliency >= torch.tensor(self.bg).view(-1, 1, 1)
        self.tables.append(self._table(fires.sum(dim=0), salient.sum(dim=0)))
        self._count("coverage", seeds != UNLABELED, torch.ones_like(seeds))
        self._count("conflict", claimed != undisputed, claimed != UNLABELED)
        for number in maps.present[0, 1:].nonzero()[:, 0] + 1:
            found = (seeds == number).any(dim=2, keepdim=True).any(dim=1, keepdim=True)
            self._count("tags_seeded", found, torch.ones_like(found))
        self._count_steps("image_edges", seeds, colors)
        self._count_steps("saliency_edges", _is_object(seeds), maps.saliency)
        for measure, others in views.items():
            for other in others:
                self.shares[measure] += foreground_overlap(seeds, self.seeds(other))
        return seeds

    def _table(self, cam_level: Tensor, saliency_level: Tensor) -> NDArray[np.float64]:
        """Shares (F + 1, B + 1) of an image's cells by how many thresholds their CAM and their saliency pass."""
        shape = len(self.fg) + 1, len(self.bg) + 1
        counts = torch.bincount((cam_level * shape[1] + saliency_level).flatten(), minlength=shape[0] * shape[1])
        return counts.view(shape).numpy() / cam_level.numel()

    def _count(self, measure: str, part: Tensor, whole: Tensor) -> None:
        self.shares[measure] += torch.stack([part.sum(dim=(1, 2)), whole.sum(dim=(1, 2))], dim=1)

    def _count_steps(self, measure: str, labels: Tensor, values: Tensor) -> None:
        everywhere = torch.arange(labels[0].numel()).view(1, *labels.shape[1:])
        steep, count = border_steps(everywhere, values)[0]
        if steep > 0:  # a plain image has no edges
            self.shares[measure] += border_steps(labels, values) * torch.stack([count / steep, torch.tensor(1.0)])

    def measures(self) -> dict[str, NDArray[np.float64]]:
        """Each of MEASURES, (F, B); NaN where there was nothing to measure."""
        shape = len(self.fg), len(self.bg)
        return {name: (self.shares[name][:, 0] / self.shares[name][:, 1]).view(shape).numpy() for name in MEASURES}

    def advice(self) -> dict[str, Advice]:
        """For `seeds.fg_thresh` and `seeds.bg_thresh`."""
        tables = np.stack(self.tables)
        return {
            "fg_thresh": Advice(self.fg, *mutual_information(split_tables(tables))),
            "bg_thresh": Advice(self.bg, *mutual_information(split_tables(tables.transpose(0, 2, 1)))),
        }


def findings(sweep: Sweep, params: Params) -> dict:
    """What the sweep found, for JSON: values of both thresholds, measures as lists (F, B), what is advised and why."""
    measures, advice = sweep.measures(), sweep.advice()
    found = {
        "images": len(sweep.tables),
        "fg_thresh": sweep.fg,
        "bg_thresh": sweep.bg,
        "params": {key: getattr(params.seeds, key) for key in advice},
        "information": {key: {"bits": one.bits.tolist(), "error": one.error.tolist()} for key, one in advice.items()},
        "meaning": MEASURES,
        "measures": {name: values.tolist() for name, values in measures.items()},
        "advised": None,
    }
    why = why_no_witness(params.saliency)
    if why is None and not all(one.is_informative for one in advice.values()):
        why = "activation maps and saliency tell nothing of each other on these images"
    if why is not None:
        return found | {"reason": f"no thresholds are advised: {why}"}
    place = advice["fg_thresh"].best, advice["bg_thresh"].best
    there = {name: float(values[place]) for name, values in measures.items()}
    best = {key: one.values[one.best] for key, one in advice.items()}
    ranges = {key: list(one.range) for key, one in advice.items()}
    found["advised"] = {"best": best, "range": ranges, "measures": there}
    return found | {"reason": _reason(advice, there)}


def _reason(advice: dict[str, Advice], measures: dict[str, float]) -> str:
    bits = [f"{one.bits[one.best]:.3f} ± {one.error[one.best]:.3f}" for one in advice.values()]
    shown = {name: "unknown" if np.isnan(value) else f"{100 * value:.0f} %" for name, value in measures.items()}
    return (
        "activation maps and saliency know nothing of each other, so where one tells most of the other it tells most "
        f"of the objects. The best thresholds tell {' and '.join(bits)} bits, the ranges what comes within that error. "
        f"At the best, {shown['coverage']} of the cells are seeds, {shown['tags_seeded']} of the tags got one, "
        f"{shown['conflict']} of the claimed cells are disputed; {shown['flip']} of foreground seeds are found in the "
        f"mirror image too, {shown['scale']} at other sizes."
    )


def summary_lines(found: dict) -> list[str]:
    """The advice as lines to read."""
    advised, now = found["advised"], found["params"]
    if advised is None:
        return [found["reason"]]
    lines = [
        f"seeds.{key}: {low:g} to {high:g}, best {advised['best'][key]:g} (params.yaml: {now[key]:g})"
        for key, (low, high) in advised["range"].items()
    ]
    changes = " ".join(f"-S seeds.{key}={value!r}" for key, value in advised["best"].items())
    return [*lines, f"Reason: {found['reason']}", f"To try the best: dvc exp run {changes}"]


def why_no_witness(saliency: Saliency) -> str | None:
    """Why saliency cannot stand beside the activation maps as a second witness, None where it can."""
    if saliency.method in ("cam", "gradient"):
        return f"saliency comes from the classifier itself (saliency.method: {saliency.method})"
    return "saliency has the activation maps in it (saliency.with_cam)" if saliency.with_cam else None


def sweep_thresholds(sweep: Sweep, project: Project, *, images: int) -> Iterator[tuple[str, Tensor]]:
    """Count at most so many training images, drawn, into a sweep -> id and seeds at every pair of each.

    The seeds' classes are places among the image's tags, 1 the first. Raises InputError when seeds or classifier are
    missing, or nothing depends on the thresholds.
    """
    params, paths = project.params, project.paths
    classes = project.classes
    seeds = read_seeds(paths.seeds, classes=classes)
    if why := why_fixed(seeds, params.seeds):
        raise InputError(f"{paths.seeds}: no threshold matters: {why}")
    classifier = load_classifier(paths.cam)
    index = project.index(max_side=params.data.max_side).split("train")
    index = index.pick(np.sort(np.random.default_rng(0).permutation(len(index))[:images]))
    seeds.in_order(index.ids)  # complains of images without
    for image_id, *seen in tracked(_seen(classifier, seeds, index, params), "advise", len(index)):
        yield image_id, sweep.add(*seen)


def _seen(
    classifier: CamClassifier, seeds: Seeds, index: Index, params: Params
) -> Iterator[tuple[str, SeedMaps, Tensor, dict[str, list[SeedMaps]]]]:
    """Of each image: id, its maps, its colors on the grid, its maps as other views make them."""

    def with_labels(images: list[NDArray[np.uint8]], *maps: Tensor) -> SeedMaps:
        if params.seeds.crf.use == "none":  # nobody will ask for them
            return SeedMaps(*maps, torch.zeros_like(maps[1], dtype=torch.uint8))
        return with_crf(images, *maps, params.seeds)

    for rows, images in image_batches(index, batch=8):
        ids = [index.ids[row] for row in rows]
        stored = [stored_maps(seeds, image_id) for image_id in ids]
        cams, saliency, present = (torch.cat(part) for part in zip(*stored, strict=True))
        maps = with_labels(images, cams, saliency, present)
        others = {
            name: [
                with_labels(images, view_maps(classifier, images, present, params, *look), saliency, present)
                for look in looks
            ]
            for name, looks in other_looks(params).items()
        }
        for place, (image_id, image) in enumerate(zip(ids, images, strict=True)):
            own = {name: [own_classes(one, place) for one in many] for name, many in others.items()}
            yield image_id, own_classes(maps, place), colors_on_grid(image, saliency.shape[-1]), own


def view_maps(
    classifier: CamClassifier,
    images: list[NDArray[np.uint8]],
    present: Tensor,
    params: Params,
    scale: float,
    mirrored: bool,
) -> Tensor:
    """Maps of the tagged classes, see `tag_maps`, of one look at the images, turned back if they were mirrored."""
    looks = [np.ascontiguousarray(image[:, ::-1]) for image in images] if mirrored else images
    wanted = params.seeds.maps_wanted | {"scales": [scale], "flip": False}
    maps = tag_maps(classifier, looks, present, size=params.data.size, **wanted)
    return maps.flip(3) if mirrored else maps


def colors_on_grid(image: NDArray[np.uint8], grid: int) -> Tensor:
    """Lab colors float32 (3, grid, grid) of the pixels that stand for the cells."""
    lab = cv2.cvtColor(sample_grid_pixels(image, grid).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return torch.from_numpy(lab.transpose(2, 0, 1).copy())


def _is_object(seeds: Tensor) -> Tensor:
    return (seeds > 0) & (seeds != UNLABELED)
