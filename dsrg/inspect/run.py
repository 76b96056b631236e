"""A run as the page shows it: which images there are, what is known of each, and what no stage has made yet."""

from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dsrg.artifacts.growth import read_growth
from dsrg.artifacts.label_folder import LabelFolder
from dsrg.artifacts.seeds_h5 import Seeds, read_seeds
from dsrg.data.images import limit_side
from dsrg.data.index import GroundTruth, read_ground_truth
from dsrg.errors import InputError
from dsrg.figures.overlays import jpeg, overlay
from dsrg.files import find_in_project
from dsrg.inference.predict import enlarged, load_segmenter, postprocess, predict_logits
from dsrg.inspect.clicks import ClickValue, Evidence, click_value, work_minutes
from dsrg.inspect.editing import Editor
from dsrg.inspect.layers import SIDE_MAX, at_most, labels_layer, map_layer, missing_layer, or_missing, steps_layer
from dsrg.inspect.reseeding import Grower, SeedMaps, disagreement, live_seeds, stored_maps, why_fixed, with_crf
from dsrg.inspect.tally import Tally, threshold_steps
from dsrg.method.grid import UNLABELED
from dsrg.method.growing import grow
from dsrg.method.metrics import confusion_matrix, iou_per_class, mean_iou
from dsrg.method.points import NO_MARK, with_marks
from dsrg.params import Params
from dsrg.project import Project

THUMBNAIL = 160  # pixels, longer side
SORTS = ("id", "coverage", "disagreement", "growth", "iou", "clicks")
MAKERS = {  # key of dvc.yaml's `file:` -> the stage that makes it
    "index": "prepare",
    "seeds": "make_seeds",
    "dsrg": "train_dsrg",
    "growth": "train_dsrg",
    "pseudo_labels": "make_pseudo_labels",
    "retrain": "retrain",
}
WATCHED_MAX = 50  # images whose growth is reported together
GROWN_ON = {"crf": "network's CRF output", "softmax": "network's output", "both": "network and its CRF"}  # by `grow.on`
TRAINING_ONLY = "training images only"


class Thresholds(NamedTuple):
    """The four that the page moves, in the order of params.yaml's keys KEYS."""

    seeds_fg: float
    seeds_bg: float
    grow_fg: float
    grow_bg: float

    @classmethod
    def of(cls, params: Params) -> "Thresholds":
        return cls(params.seeds.fg_thresh, params.seeds.bg_thresh, params.grow.fg_thresh, params.grow.bg_thresh)

    def command(self, before: "Thresholds") -> str | None:
        """What to run for these instead of those `before`; None when they are the same."""
        changed = [f"-S {key}={new!r}" for key, new, old in zip(KEYS, self, before, strict=True) if new != old]
        return " ".join(["dvc exp run", *changed]) if changed else None


KEYS = ("seeds.fg_thresh", "seeds.bg_thresh", "grow.fg_thresh", "grow.bg_thresh")


class Run:
    """Artifacts of one run of a project, read when asked for. Nothing is written but points, by its `editor`.

    name: of a run that is shown beside another. Raises InputError when there is no index.
    """

    def __init__(self, project: Project, *, name: str = "") -> None:
        self.project, self.paths, self.params, self.name = project, project.paths, project.params, name
        if not self.paths.index.is_file():
            raise InputError(f"{self.paths.index}: {_run('prepare')} first")
        self.classes = project.classes
        self.index = project.index()
        self.before = Thresholds.of(self.params)
        self.opened = self._times()
        path, data = self.params.data.points, self.params.data
        rules = {"tags": data.points_tags, "unknown": data.on_bad}
        self.editor = Editor(path and find_in_project(path), self.index, self.classes, **rules)
        self.row = self.editor.reader.row  # of the index, by id
        self.tally = Tally(self.params.seeds)
        # of the images whose growth the training recorded, as one batch: their maps, growth probabilities and points
        self.watched: tuple[SeedMaps, torch.Tensor, NDArray[np.int16]] | None = None
        self.watched_before: float | None = None  # share of their cells that is labeled at params.yaml's thresholds
        self.disagreement = np.full(len(self.index), np.nan)
        self.iou = np.full(len(self.index), np.nan)
        self.clicks = np.full(len(self.index), np.nan)
        self.click_values: dict[str, ClickValue] = {}
        # bounded memory: what is asked for again soon is kept, the rest is made again
        self.thumbnail = lru_cache(2048)(self._thumbnail)  # some kilobytes each
        self.seed_maps = lru_cache(64)(self._seed_maps)
        self.growth_probs = lru_cache(64)(self._growth_probs)
        self.predicted = lru_cache(32)(self._predicted)
        self.segmenter = lru_cache(2)(lambda key: load_segmenter(self._path(key), stage_name=MAKERS[key]))

    def _path(self, key: str) -> Path:
        return getattr(self.paths, key)

    # What there is

    def is_training(self, image_id: str) -> bool:
        return self.index.splits[self.row[image_id]] == "train"

    def missing(self) -> list[str]:
        """Artifacts that are not there, each with the stage that makes it, those made since, and what is wrong with the
        points."""
        now = self._times()
        gone = [f"{self._path(key)}: {_run(stage)}" for key, stage in MAKERS.items() if now[key] is None]
        again = "made since the page's server started; start `dsrg inspect` again to see it"
        newer = [f"{self._path(key)}: {again}" for key, time in now.items() if time not in (None, self.opened[key])]
        return [*gone, *newer, *filter(None, [self.editor.problem()])]

    def _times(self) -> dict[str, int | None]:
        """When each artifact last changed, in nanoseconds; None where there is none."""
        return {key: _modified(self._path(key)) for key in MAKERS}

    @cached_property
    def seeds(self) -> Seeds | str:
        """The seeds, or why there are none."""
        try:
            return read_seeds(self.paths.seeds, classes=self.classes)
        except InputError as error:
            return _run("make_seeds") if not self.paths.seeds.exists() else str(error)

    @cached_property
    def seeded(self) -> dict[str, int]:
        """Rows of the seeds, by id; of images of the index alone."""
        ids = self.seeds.ids if isinstance(self.seeds, Seeds) else ()
        return {image_id: row for row, image_id in enumerate(ids) if image_id in self.row}

    @cached_property
    def has_maps(self) -> bool:
        """Whether seeds can be made anew; imported ones cannot."""
        return bool(self.seeded) and self.seeds.maps(next(iter(self.seeded)))[0] is not None

    @cached_property
    def masks(self) -> dict[str, GroundTruth]:
        """Ground truth by id, of evaluation images alone: thresholds are not to be chosen by training masks."""
        truth = read_ground_truth(self.paths.ground_truth) if self.paths.ground_truth.is_file() else {}
        return {one: mask for one, mask in truth.items() if one in self.row and not self.is_training(one)}

    @cached_property
    def watched_ids(self) -> list[str]:
        """Training images with recorded growth, in the index's order."""
        found = {path.name for path in self.paths.growth.glob("*") if path.is_dir()}
        return [image_id for image_id in self.index.ids if image_id in found and image_id in self.seeded]

    def grown(self, image_id: str) -> dict[int, NDArray[np.uint8]]:
        return read_growth(self.paths.growth, image_id)

    # Numbers to sort by, one an image, NaN = unknown

    @cached_property
    def coverage(self) -> NDArray[np.float64]:
        """Share of an image's cells that are seeds."""
        values = np.full(len(self.index), np.nan)
        for image_id, row in self.seeded.items():
            values[self.row[image_id]] = (self.seeds.seeds[row] != UNLABELED).mean()
        return values

    @cached_property
    def growth(self) -> NDArray[np.float64]:
        """How much more is labeled at the last recorded step than by the seeds."""
        values = np.full(len(self.index), np.nan)
        for image_id in self.watched_ids:
            *_, last = self.grown(image_id).values()
            values[self.row[image_id]] = (last != UNLABELED).mean() - self.coverage[self.row[image_id]]
        return values

    def find(self, *, search: str, tag: str, split: str, sort: str, descending: bool) -> list[int]:
        """Rows of the index: ids that hold `search`, of a class and a split ("" = any), sorted; unknown values last."""
        wanted = search.casefold()
        shows = self.index.present[:, self.classes.index(tag) + 1] if tag else np.ones(len(self.index), bool)
        own = enumerate(zip(self.index.ids, self.index.splits, shows, strict=True))
        rows = [row for row, (one, of, shown) in own if shown and wanted in one.casefold() and split in ("", of)]
        if sort == "id":
            return sorted(rows, key=lambda row: self.index.ids[row], reverse=descending)
        values = (-1 if descending else 1) * getattr(self, sort)
        return sorted(rows, key=lambda row: np.nan_to_num(values[row], nan=np.inf))

    def described(self, row: int) -> dict:
        """An image in the grid."""
        numbers = {name: _number(getattr(self, name)[row]) for name in SORTS if name != "id"}
        image_id = self.index.ids[row]
        facts = {"id": image_id, "split": self.index.splits[row], "tags": self.tags(row)}
        marks = len(self.editor.points().marks.get(image_id, ()))
        return facts | numbers | {"reasons": self.reasons(image_id), "marks": marks}

    def tags(self, row: int) -> list[int]:
        return (np.flatnonzero(self.index.present[row, 1:]) + 1).tolist()

    # Where a click helps most

    def reasons(self, image_id: str) -> list[str]:
        """Why to click on an image, in words; empty as long as `click_value` has not looked at it."""
        value = self.click_values.get(image_id)
        return value.reasons(self.classes) if value else []

    def minutes(self, rows: list[int]) -> float:
        """How long clicks on those of the images take on which they bring something, and which have no points yet."""
        marks = self.editor.points().marks
        left = [row for row in rows if self.clicks[row] > 0 and self.index.ids[row] not in marks]
        return work_minutes(self.index.present[left], self.params)

    def click_value(self, image_id: str) -> ClickValue:
        """What clicks on a training image may bring, by all that is made so far; noted for the order `clicks`."""
        saliency, cams = self.seeds.maps(image_id)
        known = Evidence(
            self.seeds.tags_in_order([image_id])[0],
            self.seeds.in_order([image_id])[0],
            [*cams.values()],
            saliency,
            [*self.grown(image_id).values()],
            self.grower.network_probs(self._learned_from(image_id)) if self.paths.dsrg.is_file() else None,
        )
        value = self.click_values[image_id] = click_value(known, self.params)
        self.clicks[self.row[image_id]] = value.priority
        return value

    # Pictures

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """uint8 (H, W, 3)."""
        return self.index.image(self.row[image_id])

    def picture(self, image_id: str) -> bytes:
        """JPEG of the image, at most SIDE_MAX pixels a side."""
        return jpeg(limit_side(self.image(image_id), SIDE_MAX), quality=92)

    def _thumbnail(self, image_id: str, seeded: bool) -> bytes:
        """A small JPEG, with the seeds over it if there are any and they are wanted."""
        image = limit_side(self.image(image_id), THUMBNAIL)
        if seeded and image_id in self.seeded:
            image = overlay(image, self.seeds.seeds[self.seeded[image_id]])
        return jpeg(image, quality=80)

    # Layers of one image

    def layers(self, image_id: str) -> list[dict]:
        """What stages have made of an image, in their order, or why there is nothing; prediction comes by itself."""
        if not self.is_training(image_id):
            return [or_missing("truth", "ground truth", self._truth_layer, image_id)]
        return [
            *self._map_layers(image_id),
            or_missing("grown", "grown in training", self._growth_layer, image_id),
            or_missing("pseudo", "pseudo label", self._pseudo_layer, image_id),
        ]

    def _map_layers(self, image_id: str) -> list[dict]:
        """Seeds, and what they are made of."""
        if image_id not in self.seeded:
            why = f"no seeds of this image; {_run('make_seeds')} again" if isinstance(self.seeds, Seeds) else self.seeds
            return [missing_layer("seeds", "seeds", why)]
        seeds = labels_layer("seeds", "seeds", self.seeds.seeds[self.seeded[image_id]], corners=True)
        try:
            maps = self.seed_maps(image_id)
        except InputError as error:
            return [missing_layer("maps", "CAM, saliency", str(error)), seeds]
        if maps is None:
            return [missing_layer("maps", "CAM, saliency", "imported cues come without maps"), seeds]
        cams = [
            map_layer(f"cam{k}", f"CAM {self.classes[k - 1]}", maps.cams[0, k - 1].numpy(), label=k)
            for k in (np.flatnonzero(maps.present[0, 1:].numpy()) + 1).tolist()
        ]
        saliency = map_layer("saliency", "saliency", maps.saliency[0].numpy())
        crf = labels_layer("crf", "CRF of CAM and saliency", maps.labels[0].numpy(), corners=True)
        return [*cams, saliency, seeds, crf]

    def _growth_layer(self, image_id: str) -> dict:
        if grown := self.grown(image_id):
            return steps_layer("grown", "grown in training", grown)
        recorded = self.paths.growth.is_dir()
        raise InputError("not recorded; dsrg.watch_images says how many are" if recorded else _run("train_dsrg"))

    def _pseudo_layer(self, image_id: str) -> dict:
        folder = self.paths.pseudo_labels
        if not folder.is_dir():
            raise InputError(_run("make_pseudo_labels"))
        labels = LabelFolder(folder, [image_id], stage_name="make_pseudo_labels")[0]
        return labels_layer("pseudo", "pseudo label", at_most(labels), corners=False)

    def _truth_layer(self, image_id: str) -> dict:
        if image_id not in self.masks:
            raise InputError("this image has no mask")
        return labels_layer("truth", "ground truth", at_most(self.truth(image_id)), corners=False)

    def truth(self, image_id: str) -> NDArray[np.uint8]:
        """Ground truth of an evaluation image, uint8 (H, W)."""
        return self.masks[image_id].labels(self.paths.masks)

    # Predictions

    @property
    def network(self) -> str:
        """The key of the last network that there is."""
        return "dsrg" if not self.paths.retrain.is_file() and self.paths.dsrg.is_file() else "retrain"

    def prediction(self, image_id: str) -> dict:
        """The layer of the last network's prediction with CRF, and how sure the network itself is of it."""
        name = "prediction (first network)" if self.network == "dsrg" else "prediction"
        return or_missing("prediction", name, self._prediction_layer, image_id, name)

    def _prediction_layer(self, image_id: str, name: str) -> dict:
        if not self._path(self.network).is_file():
            raise InputError(_run(MAKERS[self.network]))
        labels, sure = (at_most(values) for values in self.predicted(image_id, self.network))
        known = map_layer("sure", "network's probability", sure) | {"corners": False}
        return labels_layer("prediction", name, labels, corners=False) | {"sure": known}

    def _predicted(self, image_id: str, key: str) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
        """Label map with CRF, uint8, and the network's probability of these labels, float16.

        As large as it was worked on (`evaluate.max_side`), so that what is kept of large photographs is bounded.
        """
        segmenter, model = self.segmenter(key)
        (own,) = predict_logits(segmenter, [self.image(image_id)], None, self.params.evaluate, size=model.size)
        own = own._replace(shape=own.image.shape[:2])
        ((labels, *_),) = postprocess([own], kernel=self.params.crf.test)
        probs = own.scores.softmax(dim=0).cpu().numpy()
        sure = np.take_along_axis(probs, labels[None].astype(np.int64), axis=0)[0]
        return labels, sure.astype(np.float16)

    def to_score(self) -> list[str]:
        """Evaluation images, where there is a network."""
        return [*self.masks] if self._path(self.network).is_file() else []

    def score(self, image_id: str) -> None:
        """Note an evaluation image's IoU: the mean over the classes in its mask or its prediction."""
        (labels, _), truth = self.predicted(image_id, self.network), self.truth(image_id)
        confusion = confusion_matrix(truth, enlarged(labels, truth.shape), classes=len(self.classes))
        self.iou[self.row[image_id]] = mean_iou(iou_per_class(confusion))

    # Other thresholds

    def why_fixed(self) -> dict[str, str | None]:
        """Why the thresholds of seeds and of growth cannot be moved, None where they can."""
        there = isinstance(self.seeds, Seeds)
        seeds = why_fixed(self.seeds, self.params.seeds) if there else self.seeds
        growth = None if there else self.seeds
        return {"seeds": seeds, "grow": growth if self.paths.dsrg.is_file() else _run("train_dsrg")}

    def _seed_maps(self, image_id: str) -> SeedMaps | None:
        """What an image's seeds are made from; None where they were imported without."""
        stored = stored_maps(self.seeds, image_id)
        return stored and with_crf([self._learned_from(image_id)], *stored, self.params.seeds)

    @cached_property
    def grower(self) -> Grower:
        return Grower(self.paths.dsrg, self.params)

    def _growth_probs(self, image_id: str) -> torch.Tensor:
        return self.grower.growth_probs([self._learned_from(image_id)], self._present(image_id))

    def _learned_from(self, image_id: str) -> NDArray[np.uint8]:
        """The image as the trainings see it."""
        return limit_side(self.image(image_id), self.params.data.max_side)

    def _present(self, image_id: str) -> torch.Tensor:
        """Its tags as the training had them, bool (1, C+1)."""
        return torch.from_numpy(self.seeds.tags_in_order([image_id]))

    def live(self, image_id: str, now: Thresholds, *, growing: bool) -> dict:
        """An image's seeds and, if wanted, what they grow into at the thresholds `now`, with what that changes.

        Raises InputError for an image without seeds.
        """
        if image_id not in self.seeded:
            raise InputError(f"{image_id}: has no seeds to make anew ({TRAINING_ONLY})")
        answer = {"command": now.command(self.before), "counted": self.tally.images, "of": len(self.seeds.ids)}
        maps = self.seed_maps(image_id)
        as_made = torch.from_numpy(np.asarray(self.seeds.in_order([image_id])))
        old, new = (as_made if maps is None else self._live_seeds(maps, one) for one in (self.before, now))
        if (cells := self._cells(image_id)) is not None:
            new = with_marks(new, cells[None])
        answer["seeds"] = labels_layer("seeds", "seeds", new[0].numpy(), corners=True)
        in_all = [self.tally.coverage(fg_thresh=one.seeds_fg, bg_thresh=one.seeds_bg) for one in (self.before, now)]
        answer["coverage"] = {"image": [_share(old), _share(new)], "set": in_all}
        if growing:
            answer |= self._live_growth(image_id, new, now)
            if self.watched_before is not None:
                answer["coverage"]["watched"] = [self.watched_before, self._share_grown(now)]
        return answer

    def _cells(self, image_id: str) -> NDArray[np.int16] | None:
        """What points say of an image's cells, int16 (h, w); None without points."""
        return self.editor.cells(image_id, grid=self.seeds.seeds.shape[-1])

    def _live_seeds(self, maps: SeedMaps, at: Thresholds) -> torch.Tensor:
        return live_seeds(maps, self.params.seeds, fg_thresh=at.seeds_fg, bg_thresh=at.seeds_bg)

    def _live_growth(self, image_id: str, seeds: torch.Tensor, now: Thresholds) -> dict:
        probs, present = self.growth_probs(image_id), self._present(image_id)
        present[0, self.editor.added(image_id)] = True
        grown = grow(seeds, probs, present, fg_thresh=now.grow_fg, bg_thresh=now.grow_bg)
        sure, likeliest = probs[0].masked_fill(~present[0, :, None, None], 0).max(dim=0)
        output = labels_layer("deciding", GROWN_ON[self.params.grow.on], likeliest.numpy(), corners=True)
        return {
            "deciding": output | {"sure": map_layer("sure", "probability", sure.numpy())},
            "regrown": labels_layer("regrown", "grown anew", grown[0].numpy(), corners=True),
        }

    def _share_grown(self, at: Thresholds) -> float:
        """Share of the watched images' cells that is labeled once grown."""
        maps, probs, cells = self.watched
        seeds = with_marks(self._live_seeds(maps, at), cells)
        return _share(grow(seeds, probs, maps.present, fg_thresh=at.grow_fg, bg_thresh=at.grow_bg))

    # What is counted beside

    def to_count(self) -> list[str]:
        """Training images whose seeds can be made anew, in a drawn order: any first part of it stands for the whole."""
        known = [*self.seeded] if self.has_maps else []
        return [known[place] for place in np.random.default_rng(0).permutation(len(known))]

    def count(self, image_id: str) -> None:
        """Enter one image into the tally and note how far its classes disagree."""
        maps = self._seed_maps(image_id)
        self.tally.add(maps, self._cells(image_id))
        self.disagreement[self.row[image_id]] = disagreement(maps, fg_thresh=self.params.seeds.fg_thresh)

    def to_watch(self) -> list[str]:
        """Images with recorded growth that can be grown anew, the first WATCHED_MAX of them."""
        fixed = self.why_fixed()["grow"] is not None or not self.has_maps
        return [] if fixed else self.watched_ids[:WATCHED_MAX]

    def watch(self) -> None:
        """Keep what growth of the recorded images needs, so that it is grown anew at once for any thresholds."""
        if ids := self.to_watch():
            maps = SeedMaps(*map(torch.cat, zip(*map(self.seed_maps, ids), strict=True)))
            none = np.full(maps.labels.shape[1:], NO_MARK, np.int16)
            cells = np.stack([none if own is None else own for own in map(self._cells, ids)])
            self.watched = maps, torch.cat([*map(self.growth_probs, ids)]), cells
            self.watched_before = self._share_grown(self.before)

    def state(self) -> dict:
        """What the page needs before any image."""
        four = zip(KEYS, self.before, strict=True)
        return {
            "classes": ["background", *self.classes],
            "splits": {split: len(self.index.split(split)) for split in ("train", "val")},
            "thresholds": [{"key": key, "value": value, "steps": threshold_steps(value)} for key, value in four],
            "fixed": self.why_fixed(),
            "grown_on": GROWN_ON[self.params.grow.on],
            "missing": self.missing(),
            "sorts": SORTS,
        }


def _run(stage: str) -> str:
    return f"not made yet: run `dvc repro {stage}`"


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _share(labels: torch.Tensor) -> float:
    return float((labels != UNLABELED).float().mean())


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
