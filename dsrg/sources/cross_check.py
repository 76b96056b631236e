"""Masks compared with tags, both ways: which of them contradict each other, and the likely reason, measured.

Training sees no mask, but every score is as true as they are.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsrg.method.grid import UNLABELED

SHIFTS = (1, 2, -1, -2)  # of mask values, tried one after the other
EXPLAINED, GAIN = 0.9, 0.2  # a shift is the reason if tags and masks then agree so far, and so much better than before
IMAGES_MIN = 3  # images with tags from which on the agreement says something


class Comparison(NamedTuple):
    """What masks and tags have to do with each other."""

    never: list[int]  # classes tagged on images with masks, and in none of these masks
    strangers: NDArray[np.bool_]  # (N,): tagged images whose mask shows none of the tags
    untagged: NDArray[np.bool_]  # (N,): images whose mask shows a class that is not tagged
    reason: str | None  # of contradictions, as far as it can be measured
    shifted: bool  # all masks are numbered otherwise, so every score would be false


def compare(present: NDArray[np.bool_], values: NDArray[np.bool_], classes: list[str]) -> Comparison:
    """Compare the tags of N images with their masks.

    present: tags, bool (N, C+1), column 0 background. values: the mask holds this value, bool (N, 256).
    """
    tags, shown = present[:, 1:], values[:, 1 : len(classes) + 1]
    never = np.flatnonzero(tags.any(axis=0) & ~shown.any(axis=0)) + 1
    strangers = tags.any(axis=1) & ~(tags & shown).any(axis=1)
    untagged = (shown & ~tags).any(axis=1)
    outside = values[:, len(classes) + 1 : UNLABELED].any()
    reason = shift = None
    if never.size or strangers.any() or untagged.any() or outside:
        shift = _shift(tags, values, classes)
        reason = shift or (_one_value(tags, values, classes) if strangers.any() else None)
    return Comparison(never.tolist(), strangers, untagged, reason, shift is not None)


def agreement(tags: NDArray[np.bool_], shown: NDArray[np.bool_]) -> float:
    """Of the pairs of image and class in tags or mask, the share in both. bool (N, C) each; 1 without any pair."""
    either = (tags | shown).sum()
    return float((tags & shown).sum() / either) if either else 1.0


def _shift(tags: NDArray[np.bool_], values: NDArray[np.bool_], classes: list[str]) -> str | None:
    """By how much all mask values are off, if tags and masks agree much better that way."""
    if tags.any(axis=1).sum() < IMAGES_MIN:
        return None
    best = max(EXPLAINED, agreement(tags, values[:, 1 : len(classes) + 1]) + GAIN)
    reason = None
    for shift in SHIFTS:
        for zero_moves in (False, True) if shift > 0 else (False,):
            moved = np.zeros((len(values), 256 + max(SHIFTS)), bool)
            start = max(-shift, 0 if zero_moves else 1)  # what would come below 0 becomes background
            moved[:, start + shift : UNLABELED + shift] = values[:, start:UNLABELED]
            if (agree := agreement(tags, moved[:, 1 : len(classes) + 1])) >= best:
                best, reason = np.nextafter(agree, 2), _shift_in_words(shift, classes, zero_moves=zero_moves)
    return reason


def _shift_in_words(shift: int, classes: list[str], *, zero_moves: bool) -> str:
    agree = f"tags and masks agree if {abs(shift)} is {'added to' if shift > 0 else 'taken from'} the masks' values"
    if zero_moves:
        return f"{agree}, 0 included: they count classes from 0; here 0 is background, 1 {classes[0]!r}"
    if shift > 0:
        lines = " and ".join(map(repr, classes[:shift]))
        return f"{agree} above 0: they do not count {lines}, the first of the classes; remove what is no class there"
    more = "one more class" if shift == -1 else "two more classes"
    return f"{agree} above 0: they count {more} before {classes[0]!r}; does classes.txt lack its first lines?"


def _one_value(tags: NDArray[np.bool_], values: NDArray[np.bool_], classes: list[str]) -> str | None:
    """Masks that tell foreground from background alone, whatever the class."""
    held = np.flatnonzero(values.any(axis=0)).tolist()
    known = [value for value in held if 0 < value < UNLABELED]
    if not known and UNLABELED in held:
        return (
            f"the masks hold {' and '.join(map(str, held))} alone, and {UNLABELED} means unlabeled; if it marks a "
            f"class, write the class's number instead (1 = {classes[0]})"
        )
    if not known:
        return "the masks hold 0 alone, background"
    if len(known) == 1 and tags.any(axis=1).sum() >= IMAGES_MIN and tags.any(axis=0).sum() > 1:
        return f"the masks hold the class {known[0]} alone; if it marks any object, write each one's class instead"
    return None
