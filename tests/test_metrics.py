"""dsrg.method.metrics: a case worked out by hand, the corners, and literal loops."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dsrg.evaluation.scores import Scores, score_table
from dsrg.method import metrics
from dsrg.method.metrics import (
    confusion_matrix,
    coverage,
    iou_per_class,
    label_quality,
    mean_iou,
    mean_iou_of_hits,
    pixel_accuracy,
    precision_recall,
    total_confusion,
)

NAN = float("nan")


def labels(*rows: str) -> np.ndarray:
    """Digits are labels, a dot is 255: void in the truth, unlabeled in a prediction."""
    return np.array([[255 if digit == "." else int(digit) for digit in row] for row in rows], np.uint8)


# Classes 0 to 3, of which 3 is in neither map and 2 is never found
TRUTH = labels("00011", "00112", "0.12.")
GUESS = labels("0.01.", "00101", "10111")
CONFUSION = np.array(
    [
        [4, 1, 0, 0, 1],  # truth 0: four found, one called 1, one left unlabeled
        [1, 3, 0, 0, 1],
        [0, 2, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
)


def test_confusion_by_hand():
    confusion = confusion_matrix(TRUTH, GUESS, classes=3)
    assert confusion.dtype == np.int64
    assert_array_equal(confusion, CONFUSION)


def test_label_quality_by_hand():
    """Foreground precision: 3 right of the 6 labeled 1 to 3; recall: 3 right of the 7 whose truth is 1 to 3."""
    assert label_quality(CONFUSION) == pytest.approx(
        {
            "fg_precision": 3 / 6,
            "fg_recall": 3 / 7,
            "bg_precision": 4 / 5,
            "bg_recall": 4 / 6,
            "miou": (4 / 7 + 3 / 8 + 0) / 3,
            "coverage": 11 / 13,
        }
    )


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_counted_in_blocks(monkeypatch, block):
    expected = confusion_matrix(TRUTH, GUESS, classes=3)
    monkeypatch.setattr(metrics, "BLOCK", block)
    assert_array_equal(confusion_matrix(TRUTH, GUESS, classes=3), expected)


def test_without_known_pixels_everything_is_nan_and_silent():
    confusion = confusion_matrix(labels(".."), labels("01"), classes=1)
    assert not confusion.any()
    with np.errstate(all="raise"):
        values = [pixel_accuracy(confusion), coverage(confusion), *label_quality(confusion).values()]
    assert np.isnan(values).all() and len(values) == 8


def test_confusions_add_up_over_images():
    """Of any sizes, and as many of both."""
    truths, guesses = ([whole[:, :2], whole[:, 2:]] for whole in (TRUTH, GUESS))
    assert_array_equal(total_confusion(truths, guesses, classes=3), CONFUSION)
    with pytest.raises(ValueError, match="zip"):
        total_confusion(truths, guesses[:1], classes=3)


def test_all_254_classes_have_room():
    every = np.arange(256, dtype=np.uint8)
    assert_array_equal(confusion_matrix(every, every, classes=254), np.eye(255, 256))


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"truth \(1, 2\), predicted \(2, 1\)"):
        confusion_matrix(labels("00"), labels("0", "0"), classes=1)


def test_labels_that_are_no_class_are_refused():
    with pytest.raises(ValueError, match=r"truth: expected labels 0 to 1 or 255, found \[2, 3\]"):
        confusion_matrix(labels("0323."), labels("00000"), classes=1)
    with pytest.raises(ValueError, match=r"predicted: expected labels 0 to 1 or 255, found \[7\]"):
        confusion_matrix(labels("0000."), labels("0.007"), classes=1)


# Literal loops


def literal_iou(truth: np.ndarray, guess: np.ndarray, classes: int) -> list[float]:
    iou = []
    for c in range(classes + 1):
        both = either = 0
        for t, g in zip(truth.flat, guess.flat, strict=True):
            if t != 255:
                both += t == c and g == c
                either += t == c or g == c
        iou.append(both / either if either else NAN)
    return iou


def test_everything_equals_the_literal_loops_on_random_maps():
    rng = np.random.default_rng(0)
    absent = unhit = 0
    for _ in range(100):
        classes = int(rng.integers(1, 6))
        choice = [*rng.choice(classes + 1, rng.integers(1, classes + 2), replace=False), 255]
        shape = rng.integers(1, 9, 2)
        truth, guess = rng.choice(choice, shape).astype(np.uint8), rng.choice(choice, shape).astype(np.uint8)
        guess = np.where(rng.random(shape) < 0.4, truth, guess)
        confusion = confusion_matrix(truth, guess, classes=classes)

        expected = literal_iou(truth, guess, classes)
        assert_allclose(iou_per_class(confusion), expected)
        occurring = [value for value in expected if value == value]
        mean = np.mean(occurring) if any(value == value for value in expected[1:]) else NAN
        assert mean_iou(iou_per_class(confusion)) == pytest.approx(mean, nan_ok=True)

        known = truth != 255
        share = np.mean if known.any() else lambda _: NAN
        assert pixel_accuracy(confusion) == pytest.approx(share((truth == guess)[known]), nan_ok=True)
        assert coverage(confusion) == pytest.approx(share((guess != 255)[known]), nan_ok=True)
        precision, recall = precision_recall(confusion)
        for c in range(classes + 1):
            right = ((truth == c) & (guess == c)).sum()
            for value, whole in ((precision[c], (guess[known] == c).sum()), (recall[c], (truth == c).sum())):
                assert value == pytest.approx(right / whole if whole else NAN, nan_ok=True)
        absent, unhit = absent + np.isnan(expected).any(), unhit + (0.0 in expected)
    assert absent > 10 and unhit > 10


def test_the_released_mean_leaves_out_classes_without_a_hit():
    assert mean_iou_of_hits(np.array([0.5, 0, NAN, 0.25])) == 0.375
    assert np.isnan(mean_iou_of_hits(np.array([0, NAN])))


def test_background_alone_has_no_mean():
    """A perfect score of nothing but background would say nothing about the classes."""
    background = np.zeros((4, 4), np.uint8)
    iou = iou_per_class(confusion_matrix(background, background, classes=2))
    assert iou[0] == 1 and np.isnan(mean_iou(iou)) and np.isnan(mean_iou_of_hits(iou))


def test_scores_of_both_networks_as_a_table():
    scores = {name: Scores(["cat"]) for name in ("dsrg", "retrain")}
    labels = np.array([[0, 1], [1, 1]], np.uint8)
    scores["dsrg"].add(labels, labels=np.array([[0, 0], [1, 1]], np.uint8), labels_crf=labels)
    assert score_table(scores).splitlines() == [
        "mIoU in %   network alone  with CRF",
        "dsrg                 58.3     100.0",
        "retrain                 -         -",
    ]
