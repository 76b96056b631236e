"""Checking data before anything trusts it: what every source of data hands over, and the one strict look at its files.

A source (`voc`, ...) reads a layout into a `Scan`; it knows the places to blame, so it calls `id_problems` and
`tag_problems`. `check_records` then opens every image and mask once and turns the scan into the index.
"""

import os
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsrg.data.images import ImageFacts, check_image, file_checksum, read_mask
from dsrg.data.index import GroundTruth, Index, present_from_tags
from dsrg.errors import InputError

ID_BYTES_MAX = 200  # leaves room for endings within the 255 bytes that file systems allow a name
UNLABELLED = 255
EXAMPLES = 5  # ids quoted in a warning

Progress = Callable[[int, int], None]  # called with (files done, files in all)


class Listed(NamedTuple):
    """An id as its source lists it."""

    id: str
    split: str  # "train" or "val"
    where: str  # file:line


class Record(NamedTuple):
    """One image as its source describes it; paths are relative to the root, with `/`."""

    id: str
    split: str
    image: str
    tags: tuple[str, ...]
    mask: str | None


@dataclass(frozen=True)
class Scan:
    """What a source found under `root`, and all that is wrong with it so far."""

    root: Path
    classes: list[str]
    records: list[Record]
    problems: list[str]


class Checked(NamedTuple):
    """Data that may be trusted. Warnings are lines for people; nothing depends on them."""

    index: Index
    ground_truth: list[GroundTruth]
    warnings: list[str]


class _MaskFacts(NamedTuple):
    checksum: str
    classes: np.ndarray  # bool (C+1,): the label map holds this class


def id_fault(image_id: str) -> str | None:
    """Why an id cannot serve as a file name, or None if it can."""
    if not image_id or image_id.startswith(".") or set(image_id) & set('/\\:*?"<>|') or not image_id.isprintable():
        return f"{image_id!r} is no image id; expected a file name without its folder and ending"
    if len(image_id.encode()) > ID_BYTES_MAX:
        return f"id {image_id[:20]!r}... is longer than {ID_BYTES_MAX} bytes; rename the image"
    return None


def id_problems(listed: Iterable[Listed]) -> list[str]:
    """Ids that are unsafe as file names, listed twice, in both splits, or differ from another only in case."""
    problems = []
    seen: dict[str, Listed] = {}
    for entry in listed:
        if fault := id_fault(entry.id):
            problems.append(f"{entry.where}: {fault}")
            continue
        first = seen.setdefault(unicodedata.normalize("NFC", entry.id).casefold(), entry)
        if first is entry:
            continue
        if first.id != entry.id:
            fault = f"differs only in case from {first.id!r} ({first.where}): one file on many disks; rename one"
        elif first.split != entry.split:
            fault = f"is in both splits ({first.where}): never evaluate on a training image; remove it from one list"
        else:
            fault = f"is listed twice ({first.where}); remove one"
        problems.append(f"{entry.where}: id {entry.id!r} {fault}")
    return problems


def tag_problems(tags: dict[str, Iterable[str]], classes: list[str]) -> list[str]:
    """Tags, given by the place where they stand, that are no class."""
    problems = []
    for where, names in tags.items():
        for name in dict.fromkeys(names):
            if name not in classes:
                near = get_close_matches(name, classes, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "mend it, or list your own classes in classes.txt"
                span = f"the {len(classes)} classes ({classes[0]} ... {classes[-1]})"
                problems.append(f"{where}: tag {name!r} is none of {span}; {hint}")
    return problems


def check_records(scan: Scan, *, pixels_max: int, progress: Progress | None = None) -> Checked:
    """Open every image and mask of a scan once -> index, ground truth and warnings, in the order of the records.

    An image must be readable to its end and have at most `pixels_max` pixels; a mask must be a label map of the image's
    size with values 0..C or 255. Raises InputError with all problems at once, the scan's own first, grouped by kind.
    """
    records, root, classes = scan.records, scan.root, scan.classes
    total = len(records) + sum(record.mask is not None for record in records)
    done = count(1)

    def tick() -> None:
        if progress:
            progress(next(done), total)

    def look_at_image(record: Record) -> ImageFacts:
        return check_image(root / record.image, pixels_max=pixels_max)

    def look_at_mask(pair: tuple[Record, ImageFacts | None]) -> _MaskFacts:
        return _check_mask(root / pair[0].mask, pair[1], classes)

    images, image_problems = _each(look_at_image, records, tick)
    masked = [(record, facts) for record, facts in zip(records, images, strict=True) if record.mask is not None]
    masks, mask_problems = _each(look_at_mask, masked, tick)
    if problems := [*scan.problems, *image_problems, *mask_problems]:
        raise InputError(dict.fromkeys(problems))

    index = Index(
        ids=[record.id for record in records],
        splits=[record.split for record in records],
        paths=[record.image for record in records],
        heights=np.array([facts.height for facts in images], np.int32),
        widths=np.array([facts.width for facts in images], np.int32),
        present=present_from_tags([record.tags for record in records], classes),
        checksums=[facts.checksum for facts in images],
    )
    masks = {record.id: facts for (record, _), facts in zip(masked, masks, strict=True)}
    ground_truth = [GroundTruth(r.id, r.split, r.mask, masks[r.id].checksum) for r, _ in masked]
    return Checked(index, ground_truth, _warnings(index, masks, classes))


def _each(function: Callable, items: list, tick: Callable[[], None]) -> tuple[list, list[str]]:
    """Call `function` on all items, in threads -> its results (None where it refused) and its problems, in order."""

    def attempt(item: object) -> tuple[object, list[str]]:
        try:
            return function(item), []
        except InputError as error:
            return None, error.problems

    results, problems = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result, faults in pool.map(attempt, items):
            results.append(result)
            problems += faults
            tick()
    return results, problems


def _check_mask(path: Path, image: ImageFacts | None, classes: list[str]) -> _MaskFacts:
    mask = read_mask(path)
    problems = []
    if image and mask.shape != (image.height, image.width):
        sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, but its image has {image.width} x {image.height}"
        problems.append(f"{path}: {sizes} (as turned by its EXIF orientation); they must be of one size")
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    labels = values[values != UNLABELLED]
    if wrong := labels[labels > len(classes)].tolist():
        expected = f"0 (background), 1 to {len(classes)} ({classes[0]} ... {classes[-1]}) or {UNLABELLED} (unlabelled)"
        problems.append(f"{path}: holds {', '.join(map(str, wrong))}; expected {expected}")
    if problems:
        raise InputError(problems)
    return _MaskFacts(file_checksum(path), np.bincount(labels, minlength=len(classes) + 1) > 0)


def _warnings(index: Index, masks: dict[str, _MaskFacts], classes: list[str]) -> list[str]:
    rows = list(zip(index.ids, index.splits, index.present, index.checksums, strict=True))
    trained_on = {checksum for _, split, _, checksum in rows if split == "train"}
    learned = index.split("train").present[:, 1:].any(axis=0)
    offenders = {
        "classes have no training image, so cannot be learned": [classes[k] for k in np.flatnonzero(~learned)],
        "training images have no tag, so teach background only": [
            image_id for image_id, split, present, _ in rows if split == "train" and not present[1:].any()
        ],
        "images have a class in their mask that is not among their tags": [
            image_id
            for image_id, _, present, _ in rows
            if image_id in masks and (masks[image_id].classes & ~present).any()
        ],
        "val images have no mask, so are not evaluated": [
            image_id for image_id, split, _, _ in rows if split == "val" and image_id not in masks
        ],
        "val images are byte for byte training images, which flatters the evaluation": [
            image_id for image_id, split, _, checksum in rows if split == "val" and checksum in trained_on
        ],
    }
    return [
        f"{len(names)} {what}: {', '.join(names[:EXAMPLES])}{', ...' if len(names) > EXAMPLES else ''}"
        for what, names in offenders.items()
        if names
    ]
