"""Checking data before anything trusts it: what every source of data hands over, and the one strict look at its files.

A source (`voc`, `folder`, `coco`) reads a layout into a `Scan`; it knows the places to blame, so it calls `id_problems`
and `tag_faults`. `check_records` then opens every image and mask once and turns the scan into the index.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsrg.data.classes import composites
from dsrg.data.images import REMARKS, ImageFacts, check_image, mask_from, read_bytes
from dsrg.data.index import GroundTruth, Index, present_from_tags
from dsrg.data.palette import label_png
from dsrg.errors import InputError, collecting, few, nearest
from dsrg.files import linked_elsewhere, refuse_outside
from dsrg.method.grid import UNLABELED
from dsrg.runtime.environment import worker_count
from dsrg.runtime.progress import tracked
from dsrg.runtime.workers import threaded_map
from dsrg.sources.cross_check import compare

TAG_SEPARATORS = ",;|\t\n\uff0c\uff1b\uff5c\u3001"  # what people separate tags with, also in Chinese and Japanese
FEW = 5  # training images of a class below which people are warned
OTHER_TAG = "fix it, or leave it out: the network knows no other classes"  # where one is trained already

DrawMask = Callable[[int, int], np.ndarray]  # (height, width) of the image -> its label map, uint8 (H, W)


class Record(NamedTuple):
    """One image as its source describes it; paths are relative to the root, with `/`.

    A mask that is no file is a function that draws it, and raises InputError where it cannot.
    """

    id: str
    split: str
    image: str
    tags: tuple[str, ...]
    mask: str | DrawMask | None


class ImageProblem(NamedTuple):
    """What is wrong with one image, and with that image alone: it can be left out (data.on_bad: skip)."""

    id: str  # or the place that names it, where there is no image to have an id
    problem: str


@dataclass
class Scan:
    """What a source finds under `root`, and all that is wrong with it so far; a source fills it."""

    root: Path
    classes: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # of lists, tables and layout: nobody can go on with them
    faults: list[ImageProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def collecting(self, image: str | None = None) -> Iterator[None]:
        """Errors inside become problems, or faults of one image (its id, or the place that names it)."""
        found: list[str] = []
        with collecting(found):
            yield
        if image is None:
            self.problems += found
        else:
            self.faults += [ImageProblem(image, problem) for problem in found]

    def warn(self, what: str, names: Iterable[str]) -> None:
        self.warnings += warn_of(what, names)


class ValidatedData(NamedTuple):
    """Data that may be trusted. Warnings are lines for people; nothing depends on them."""

    index: Index
    ground_truth: list[GroundTruth]
    warnings: list[str]
    skipped: list[ImageProblem]


@dataclass(slots=True)
class _Looked:
    """A record, and what its files turned out to be."""

    record: Record
    image: ImageFacts | None = None
    image_problems: list[str] = field(default_factory=list)
    mask: GroundTruth | None = None
    mask_problems: list[str] = field(default_factory=list)
    held: np.ndarray | None = None  # the mask holds this value, bool (256,)


def tag_faults(
    tagged: Iterable[tuple[str, str, Iterable[str]]],
    classes: list[str],
    *,
    else_hint: str = "fix it, or list your own classes in classes.txt",
) -> list[ImageProblem]:
    """Tags that are no class, of images given as (id, the place where their tags stand, tags).

    else_hint: what to do with a tag that looks like no class.
    """
    known, span = set(classes), f"the {len(classes)} classes ({classes[0]} ... {classes[-1]})"
    return [
        ImageProblem(image_id, f"{where}: tag {name!r} is none of {span}; {_tag_hint(name, classes) or else_hint}")
        for image_id, where, names in tagged
        for name in dict.fromkeys(names)
        if name not in known
    ]


def _tag_hint(name: str, classes: list[str]) -> str | None:
    if name.isdecimal() and len(name) < 4 and int(name) <= len(classes):
        return "tags are names of classes, not their numbers"
    if made := composites([name], classes):
        return made[name].hint
    near = nearest(name, classes)
    return near and f"did you mean {near!r}?"


def check_records(
    scan: Scan, *, pixels_max: int, on_bad: str, untagged: str, masks_to: Path | None = None
) -> ValidatedData:
    """Open every image and mask of a scan once -> index, ground truth, warnings, in the order of the records.

    An image must be readable to its end and have at most `pixels_max` pixels; a mask must be a label map of the image's
    size with values 0..C or 255.

    on_bad    "fail": an image with a fault stops everything; "skip": it is left out and listed in `skipped`
    untagged  "background": an image without tags shows no class; "bad": it is a fault
    masks_to  folder for all masks as ID.png, palette PNGs; paths of the ground truth are relative to it. Without it
              nothing is written, and they are relative to the root (of a mask that is drawn, ID.png)

    Raises InputError with all problems at once, the scan's own first, grouped by kind; with `skip` too, where the lists
    themselves are wrong or no image or no training image is left.
    """
    faults = [*scan.faults, *(_untagged(scan.records) if untagged == "bad" else [])]
    bad = {fault.id for fault in faults}

    def look(record: Record) -> _Looked:
        return _look(record, scan, pixels_max=pixels_max, masks_to=None if record.id in bad else masks_to)

    done = threaded_map(look, scan.records, threads=worker_count())
    looked = list(tracked(done, "checking images", len(scan.records)))
    for kind in ("image_problems", "mask_problems"):
        faults += [ImageProblem(one.record.id, problem) for one in looked for problem in getattr(one, kind)]
    faults = list(dict.fromkeys(faults))
    bad = {fault.id for fault in faults}
    good = [one for one in looked if one.record.id not in bad]
    against_tags, masks_warnings = _cross_check(looked, scan, bad=bad)
    if scan.problems or against_tags or (faults and on_bad == "fail"):
        raise InputError(dict.fromkeys([*scan.problems, *(fault.problem for fault in faults), *against_tags]))
    if lost := _lost(scan.records, [one.record for one in good]):
        raise InputError([*dict.fromkeys(fault.problem for fault in faults), lost])
    index = Index(
        ids=[one.record.id for one in good],
        splits=[one.record.split for one in good],
        paths=[one.record.image for one in good],
        heights=np.array([one.image.height for one in good], np.int32),
        widths=np.array([one.image.width for one in good], np.int32),
        present=present_from_tags([one.record.tags for one in good], scan.classes),
        checksums=[one.image.checksum for one in good],
        root=scan.root,
    )
    masks_there = (one.record.mask for one in good if isinstance(one.record.mask, str))
    elsewhere = linked_elsewhere([*index.paths, *masks_there], scan.root)
    linked = warn_of(f"files lie outside of {scan.root}; links lead to them", elsewhere)
    warnings = [*scan.warnings, *linked, *_warnings(index, good, scan.classes), *masks_warnings]
    return ValidatedData(index, [one.mask for one in good if one.mask is not None], warnings, faults)


def _untagged(records: list[Record]) -> list[ImageProblem]:
    what = "has no tag; tag it, or set data.untagged: background if none of the classes is on it"
    return [ImageProblem(record.id, f"{record.image}: {what}") for record in records if not record.tags]


def _lost(before: list[Record], after: list[Record]) -> str | None:
    """What is missing once bad images are left out, if it is too much to go on."""
    if not after:
        return f"no image is left of {len(before)}; fix some (data.on_bad: skip)"
    trained_on = sum(record.split == "train" for record in before)
    if trained_on and not any(record.split == "train" for record in after):
        return f"no training image is left of {trained_on}; fix some (data.on_bad: skip)"
    return None


def _look(record: Record, scan: Scan, *, pixels_max: int, masks_to: Path | None) -> _Looked:
    """Open an image and its mask, which is written to `masks_to` if both are sound."""
    found = _Looked(record)
    with collecting(found.image_problems):
        refuse_outside(record.image, scan.root)
        found.image = check_image(scan.root / record.image, pixels_max=pixels_max)
    with collecting(found.mask_problems):
        if callable(record.mask) and found.image:
            path, content = f"{record.id}.png", None
            labels = record.mask(found.image.height, found.image.width)
        elif isinstance(record.mask, str):
            refuse_outside(record.mask, scan.root)
            path, content = record.mask, read_bytes(scan.root / record.mask)
            labels = mask_from(content, scan.root / record.mask, pixels_max=pixels_max)
        else:
            return found
        found.held = np.bincount(labels.ravel(), minlength=256) > 0
        found.mask_problems += _unfit(labels.shape, found, scan.classes, path=scan.root / path)
    if found.image and not found.mask_problems:
        if masks_to is not None or content is None:
            path, content = f"{record.id}.png", label_png(labels)
        if masks_to is not None:
            (masks_to / path).write_bytes(content)
        found.mask = GroundTruth(record.id, record.split, path, hashlib.sha256(content).hexdigest())
    return found


def _unfit(shape: tuple[int, int], found: _Looked, classes: list[str], *, path: Path) -> Iterator[str]:
    """What is wrong with a mask of another size than its image, or with values that are no class."""
    if found.image and shape != (found.image.height, found.image.width):
        sizes = f"{shape[1]} x {shape[0]} pixels, but its image has {found.image.width} x {found.image.height}"
        yield f"{path}: {sizes} (as turned by its EXIF orientation); they must be of one size"
    wrong = np.flatnonzero(found.held[:UNLABELED])
    if classes and (wrong := wrong[wrong > len(classes)]).size:  # without classes their names are what is wrong
        expected = f"0 (background), 1 to {len(classes)} ({classes[0]} ... {classes[-1]}) or {UNLABELED} (unlabeled)"
        yield f"{path}: holds {', '.join(map(str, wrong))}; expected {expected}"


def _cross_check(looked: list[_Looked], scan: Scan, *, bad: Container[str]) -> tuple[list[str], list[str]]:
    """Masks and tags against each other -> problems, warnings. bad: ids of images with a fault of their own."""
    classes, known = scan.classes, set(scan.classes)
    masked = [one for one in looked if one.held is not None and known.issuperset(one.record.tags)]
    if not (classes and masked):
        return [], []
    ids = np.array([one.record.id for one in masked])
    present = present_from_tags([one.record.tags for one in masked], classes)
    values = np.array([one.held for one in masked])
    found = compare(present, values, classes)
    problems = [f"{scan.root}: the masks do not fit the tags: {found.reason}"] if found.shifted else []
    scored = np.array([one.record.split == "val" and one.record.id not in bad for one in masked])
    if scored.any() and not values[scored, 1 : len(classes) + 1].any() and not found.shifted:
        reason = compare(present[scored], values[scored], classes).reason
        why = reason or "choose others (data.val, data.split_seed), or remove these masks"
        problems.append(f"{scan.root}: no mask of the {scored.sum()} images to evaluate on holds a class: {why}")
    good = np.array([i not in bad for i in ids])
    warnings = [
        *warn_of(
            "classes are tagged on images with masks, but occur in none of the masks",
            (classes[k - 1] for k in found.never),
        ),
        *warn_of("images have a mask that holds none of their tags", ids[found.strangers & good]),
        *warn_of("images have a class in their mask that is not among their tags", ids[found.untagged & good]),
    ]
    if warnings and found.reason:
        warnings.append(f"the likely reason: {found.reason}")
    return problems, warnings


def _warnings(index: Index, good: list[_Looked], classes: list[str]) -> list[str]:
    masks = {one.record.id for one in good if one.mask is not None}
    rows = list(zip(index.ids, index.splits, index.present, index.checksums, strict=True))
    trained_on = {checksum for _, split, _, checksum in rows if split == "train"}
    val = [(image_id, checksum) for image_id, split, _, checksum in rows if split == "val"]
    tags = index.split("train").present[:, 1:]
    images_of = tags.sum(axis=0)
    everywhere = np.flatnonzero((images_of > 0) & (images_of == len(tags)))
    often = [classes[k] for k in np.flatnonzero(images_of >= FEW)]
    few_of = [_few(classes[k], images_of[k], often) for k in np.flatnonzero((images_of > 0) & (images_of < FEW))]
    first: dict[str, tuple] = {}
    copies = [(first.setdefault(row[3], row), row) for row in rows]
    copies = [(one, copy, f"{copy[0]} = {one[0]}") for one, copy in copies if one is not copy]
    offenders = {
        "classes have no training image, so cannot be learned": [classes[k] for k in np.flatnonzero(images_of == 0)],
        f"classes have fewer than {FEW} training images": few_of,
        "classes are on every training image, so cannot be learned: that needs images without them": (
            classes[k] for k in everywhere
        ),
        "groups of classes never occur apart, so nothing says which of them is which": _inseparable(
            tags, classes, besides=everywhere
        ),
        "training images have no tag, so teach background only": (
            image_id for image_id, split, present, _ in rows if split == "train" and not present[1:].any()
        ),
        "val images have no mask, so are not evaluated": (image_id for image_id, _ in val if image_id not in masks),
        "val images are byte for byte training images, which flatters the evaluation": (
            image_id for image_id, checksum in val if checksum in trained_on
        ),
        "images are byte for byte copies of others in their split": (
            line for one, copy, line in copies if copy[1] == one[1]
        ),
        "images are byte for byte copies of others, but have other tags": (
            line for one, copy, line in copies if (copy[2] != one[2]).any()
        ),
    }
    for what in REMARKS:
        offenders[f"images {what}"] = [one.record.id for one in good if what in one.image.remarks]
    return [line for what, names in offenders.items() for line in warn_of(what, names)]


def _inseparable(present: np.ndarray, classes: list[str], *, besides: np.ndarray) -> list[str]:
    """Groups of classes that are on the same training images. present: bool (N, C); besides: class numbers left out."""
    groups = defaultdict(list)
    for k in np.flatnonzero(present.any(axis=0)):
        if k not in besides:
            groups[present[:, k].tobytes()].append(classes[k])
    return [" = ".join(names) for names in groups.values() if len(names) > 1]


def _few(name: str, images: int, often: list[str]) -> str:
    """A class of few images: without classes.txt, a misspelt tag becomes one."""
    near = nearest(name, often)
    return f"{name} ({images}; or is it {near!r} misspelt?)" if near else f"{name} ({images})"


def warn_of(what: str, names: Iterable[str]) -> list[str]:
    """A warning about names, if there are any: how many, and the first of them."""
    names = list(names)
    return [f"{len(names)} {what}: {few(names)}"] if names else []
