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
from dsrg.errors import InputError, few, nearest
from dsrg.files import linked_elsewhere, refuse_outside
from dsrg.method.grid import UNLABELLED
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
        try:
            yield
        except InputError as error:
            if image is None:
                self.problems += error.problems
            else:
                self.faults += [ImageProblem(image, problem) for problem in error.problems]

    def warn(self, what: str, names: Iterable[str]) -> None:
        self.warnings += warn_of(what, names)


class ValidatedData(NamedTuple):
    """Data that may be trusted. Warnings are lines for people; nothing depends on them."""

    index: Index
    ground_truth: list[GroundTruth]
    warnings: list[str]
    skipped: list[ImageProblem]


class _MaskFacts(NamedTuple):
    path: str
    checksum: str


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
    records, root, classes = scan.records, scan.root, scan.classes

    def look_at_image(record: Record) -> ImageFacts:
        refuse_outside(record.image, root)
        return check_image(root / record.image, pixels_max=pixels_max)

    held: dict[str, np.ndarray] = {}  # by id: the mask holds this value, bool (256,)

    def look_at_mask(pair: tuple[Record, ImageFacts | None]) -> _MaskFacts | None:
        record, image = pair
        if callable(record.mask) and image is None:
            return None
        if callable(record.mask):
            labels, content = record.mask(image.height, image.width), None
        else:
            refuse_outside(record.mask, root)
            content = read_bytes(root / record.mask)
            labels = mask_from(content, root / record.mask, pixels_max=pixels_max)
        held[record.id] = np.bincount(labels.ravel(), minlength=256) > 0
        _refuse_unfit(labels.shape, held[record.id], image, classes, path=root / f"{record.mask}")
        return _keep_mask(record, labels, content, masks_to=None if record.id in bad else masks_to)

    faults = [*scan.faults, *(_untagged(records) if untagged == "bad" else [])]
    images, image_faults = _each(look_at_image, records, "checking images")
    bad = {fault.id for fault in [*faults, *image_faults]}
    masked = [(record, facts) for record, facts in zip(records, images, strict=True) if record.mask is not None]
    masks, mask_faults = _each(look_at_mask, masked, "checking masks", item_id=lambda pair: pair[0].id)
    faults = list(dict.fromkeys([*faults, *image_faults, *mask_faults]))
    bad |= {fault.id for fault in mask_faults}
    good = [(record, facts) for record, facts in zip(records, images, strict=True) if record.id not in bad]
    against_tags, masks_warnings = _cross_check(records, held, classes, root=root, bad=bad)
    if scan.problems or against_tags or (faults and on_bad == "fail"):
        raise InputError(dict.fromkeys([*scan.problems, *(fault.problem for fault in faults), *against_tags]))
    if lost := _lost(records, [record for record, _ in good]):
        raise InputError([*dict.fromkeys(fault.problem for fault in faults), lost])
    kept = {record.id: facts for (record, _), facts in zip(masked, masks, strict=True) if record.id not in bad}
    index, ground_truth = _index_of(good, kept, classes, root=root)
    remarks = {record.id: facts.remarks for record, facts in good}
    masks_there = (record.mask for record, _ in good if isinstance(record.mask, str))
    elsewhere = linked_elsewhere([*index.paths, *masks_there], root)
    linked = warn_of(f"files lie outside of {root}; links lead to them", elsewhere)
    warnings = [*scan.warnings, *linked, *_warnings(index, kept, remarks, classes), *masks_warnings]
    return ValidatedData(index, ground_truth, warnings, faults)


def _index_of(
    good: list[tuple[Record, ImageFacts]], masks: dict[str, _MaskFacts], classes: list[str], *, root: Path
) -> tuple[Index, list[GroundTruth]]:
    """The index of records and what their images turned out to be, and the ground truth of those with a mask."""
    index = Index(
        ids=[record.id for record, _ in good],
        splits=[record.split for record, _ in good],
        paths=[record.image for record, _ in good],
        heights=np.array([facts.height for _, facts in good], np.int32),
        widths=np.array([facts.width for _, facts in good], np.int32),
        present=present_from_tags([record.tags for record, _ in good], classes),
        checksums=[facts.checksum for _, facts in good],
        root=root,
    )
    found = [(record, masks[record.id]) for record, _ in good if record.id in masks]
    return index, [GroundTruth(record.id, record.split, facts.path, facts.checksum) for record, facts in found]


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


def _each(
    function: Callable, items: list, title: str, *, item_id: Callable = lambda record: record.id
) -> tuple[list, list[ImageProblem]]:
    """Call `function` on all items, in threads, a few ahead -> its results (None: it refused), its faults, in order."""

    def attempt(item: object) -> tuple[object, list[str]]:
        try:
            return function(item), []
        except InputError as error:
            return None, error.problems

    results, faults = [], []
    done = tracked(threaded_map(attempt, items, threads=worker_count()), title, len(items))
    for item, (result, problems) in zip(items, done, strict=True):
        results.append(result)
        faults += [ImageProblem(item_id(item), problem) for problem in problems]
    return results, faults


def _refuse_unfit(
    shape: tuple[int, int], held: np.ndarray, image: ImageFacts | None, classes: list[str], *, path: Path
) -> None:
    """Raise InputError for a mask of another size than its image, or with values that are no class."""
    problems = []
    if image and shape != (image.height, image.width):
        sizes = f"{shape[1]} x {shape[0]} pixels, but its image has {image.width} x {image.height}"
        problems.append(f"{path}: {sizes} (as turned by its EXIF orientation); they must be of one size")
    wrong = np.flatnonzero(held[:UNLABELLED])
    if classes and (wrong := wrong[wrong > len(classes)]).size:  # without classes their names are what is wrong
        expected = f"0 (background), 1 to {len(classes)} ({classes[0]} ... {classes[-1]}) or {UNLABELLED} (unlabelled)"
        problems.append(f"{path}: holds {', '.join(map(str, wrong))}; expected {expected}")
    if problems:
        raise InputError(problems)


def _keep_mask(record: Record, labels: np.ndarray, content: bytes | None, *, masks_to: Path | None) -> _MaskFacts:
    """Write a label map where masks are kept, if anywhere -> where its file is, its checksum."""
    path = record.mask
    if masks_to is not None or content is None:
        path, content = f"{record.id}.png", label_png(labels)
        if masks_to is not None:
            (masks_to / path).write_bytes(content)
    return _MaskFacts(path, hashlib.sha256(content).hexdigest())


def _cross_check(
    records: list[Record], held: dict[str, np.ndarray], classes: list[str], *, root: Path, bad: Container[str]
) -> tuple[list[str], list[str]]:
    """Masks and tags against each other -> problems, warnings. bad: ids of images with a fault of their own."""
    known = set(classes)
    masked = [record for record in records if record.id in held and known.issuperset(record.tags)]
    if not (classes and masked):
        return [], []
    ids = np.array([record.id for record in masked])
    present = present_from_tags([record.tags for record in masked], classes)
    values = np.array([held[i] for i in ids])
    found = compare(present, values, classes)
    problems = [f"{root}: the masks do not fit the tags: {found.reason}"] if found.shifted else []
    scored = np.array([record.split == "val" and record.id not in bad for record in masked])
    if scored.any() and not values[scored, 1 : len(classes) + 1].any() and not found.shifted:
        reason = compare(present[scored], values[scored], classes).reason
        why = reason or "choose others (data.val, data.split_seed), or remove these masks"
        problems.append(f"{root}: no mask of the {scored.sum()} images to evaluate on holds a class: {why}")
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


def _warnings(
    index: Index, masks: dict[str, _MaskFacts], remarks: dict[str, tuple[str, ...]], classes: list[str]
) -> list[str]:
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
        offenders[f"images {what}"] = [image_id for image_id in index.ids if what in remarks[image_id]]
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
