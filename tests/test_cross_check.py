"""Masks against tags: contradictions both ways, and their likely reason, measured."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrg.sources.cross_check import agreement, compare

CLASSES = ["cat", "cow", "dog", "emu"]
TAGS = [{3}, {1}, {4}, {3, 4}, {1, 4}, set(), {2}, {2, 3}]


def bools(sets: list[set[int]], count: int) -> np.ndarray:
    return np.array([[k in one for k in range(count)] for one in sets])


def compared(tags: list[set[int]], masks: list[set[int]], classes=CLASSES):
    return compare(bools([{0} | one for one in tags], len(classes) + 1), bools(masks, 256), classes)


def test_tags_and_masks_that_agree():
    found = compared(TAGS, [{0, 255} | one for one in TAGS])
    assert (found.never, found.reason, found.shifted) == ([], None, False)
    assert not found.strangers.any() and not found.untagged.any()


def test_contradictions_are_found_both_ways():
    found = compared([{1}, {2, 3}, {4}, {1}, set()], [{0, 1}, {0, 3}, {0, 3}, {0, 255}, {0, 1}])
    assert found.never == [2, 4]
    assert found.strangers.tolist() == [False, False, True, True, False]
    assert found.untagged.tolist() == [False, False, True, False, True]
    assert found.reason is None


# what a program makes of class k -> words of the reason
NUMBERINGS = {
    "counted from 0": (lambda k: k - 1, False, "they count classes from 0"),
    "one line too many in classes.txt": (lambda k: k - 1, True, "they do not count 'cat'"),
    "two lines too many": (lambda k: k - 2, True, "they do not count 'cat' and 'cow'"),
    "one class more in the masks": (lambda k: k + 1, True, "they count one more class before 'cat'"),
    "two more": (lambda k: k + 2, True, "they count two more classes before 'cat'"),
}


@pytest.mark.parametrize(("number", "background", "words"), NUMBERINGS.values(), ids=NUMBERINGS)
def test_shifted_masks_are_recognized(number, background, words):
    tags = [{k for k in one if number(k) >= background} for one in TAGS]
    found = compared(tags, [{0 if background else 255} | {*map(number, one)} for one in tags])
    assert found.shifted and words in found.reason


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({0, 255}, "the masks hold 0 and 255 alone"),
        ({0, 1}, "the masks hold the class 1 alone"),
        ({0}, "hold 0 alone"),
    ],
)
def test_foreground_whatever_the_class(values, words):
    found = compared(TAGS, [values if one else {0} for one in TAGS])
    assert words in found.reason and not found.shifted


def test_few_images_prove_no_shift():
    assert not compared([{1}, {2}], [{2}, {3}]).shifted


@given(st.lists(st.sets(st.integers(1, 4)), min_size=1), st.data())
def test_masks_that_show_some_of_the_tags_are_never_called_shifted(tags, data):
    masks = [{0} | data.draw(st.sets(st.sampled_from(sorted(one)), min_size=1)) if one else {0} for one in tags]
    found = compared(tags, masks)
    assert not found.strangers.any() and not found.untagged.any()
    if agreement(bools([{0} | one for one in tags], 5)[:, 1:], bools(masks, 256)[:, 1:5]) > 0.8:
        assert not found.shifted
