"""results/report.html: names are text, charts say what the tables say, and the page stands alone."""

import json
import math
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrg.errors import InputError
from dsrg.figures.overlays import write_picture
from dsrg.figures.report import (
    BEST_WORST_COUNT,
    CONFUSIONS,
    MATRIX_MOST,
    MOST_POINTS,
    STRIPS,
    line_chart,
    report_page,
    shade,
    thinned,
    with_times,
)
from dsrg.files import write_csv, write_json, write_text
from helpers.data import picture as toy_picture
from helpers.project import recipe

NASTY = ["<script>alert(1)</script>", "a & b \"c\" 'd'", "größe 猫"]
CLASSES = [*NASTY, "never"]
IDS = [f"im{k}" for k in range(20)]


def numbered(rows: list[list], header: list[str]) -> str:
    return "\n".join("\t".join(map(str, row)) for row in [header, *rows]) + "\n"


def write_results(folder: Path, classes: list[str] = CLASSES, *, ids: list[str] = IDS) -> Path:
    """What the stages leave behind, in small."""
    names = ["background", *classes]
    seen = names[:-1]
    scores = {"miou": 0.4, "miou_crf": 0.5, "pixel_accuracy": 0.7, "pixel_accuracy_crf": 0.8, "absent": names[-1:]}
    if not ids:
        scores = dict.fromkeys(scores) | {"absent": names}
    write_json(folder / "evaluate/metrics.json", {"dsrg": scores, "retrain": scores})
    columns = ["class", "dsrg", "dsrg_crf", "retrain", "retrain_crf"]
    write_csv(folder / "evaluate/per_class.csv", columns, [[name, 0.1, 0.2, "", 0.4] for name in seen if ids])
    confused = [[a, b, 0.75 if a == b else 0.25 / (len(seen) - 1)] for a in seen for b in seen if ids]
    unseen = [[a, names[-1], 0.0] for a in seen if ids]
    write_csv(folder / "evaluate/confusion.csv", ["actual", "predicted", "share"], confused + unseen)
    iou = [[name, 0.5, "" if k == 3 else k / 100] for k, name in enumerate(ids)]
    write_csv(folder / "evaluate/per_image.csv", ["id", "dsrg_crf", "retrain_crf"], iou)
    for name in ids:
        write_picture(folder / f"evaluate/best_worst/{name}.png", toy_picture(40, 90, seed=1))
    shares = {"coverage": 0.5, "foreground": 0.2, "background": 0.3, "conflicts": None, "tags_seeded": 0.9}
    write_json(folder / "make_seeds/metrics.json", shares | {"unseeded_classes": [classes[1]]})
    columns = ["class", "images", "images_seeded", "images_unseeded", "pixels", "coverage", "conflicts"]
    counts = [[name, 0 if name == names[-1] else 7, 5, 2, 90, 0.125, ""] for name in names]
    write_csv(folder / "make_seeds/per_class.csv", columns, counts)
    write_picture(folder / "make_seeds/contact_sheet.png", toy_picture(60, 80, seed=2))
    columns = ["step", "loss", "seeding_loss", "foreground", "background", "seed_foreground", "seed_background"]
    curves = [[step, *(round(1 / step, 3) for _ in columns[1:]), 0.8, 0.15, 0.05, 0.9, 1e-3] for step in (10, 20, 30)]
    write_text(folder / "train_dsrg/curves.tsv", numbered(curves, [*columns, *PREDICTED, "agreement", "lr"]))
    shares = [[step, name, *[0 if name == names[-1] else 0.1] * 3] for step in (10, 20, 30) for name in names]
    write_text(folder / "train_dsrg/per_class.tsv", numbered(shares, ["step", "class", "seeds", "agreed", "grown"]))
    for k in range(5):
        write_picture(folder / f"train_dsrg/growth/im{k}.png", toy_picture(30, 150, seed=k))
    return folder


PREDICTED = ("predicted_background", "predicted_tagged", "predicted_absent")


def page_of(folder: Path, classes: list[str] = CLASSES, **changes) -> str:
    images = {"to learn from": 7, "to evaluate on": 3}
    versions = {"Python": "3.12.9", "torch": "2.9.1+cpu"}
    return report_page(folder, classes=classes, images=images, params=recipe() | changes, versions=versions)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return write_results(tmp_path_factory.mktemp("results"))


class Texts(HTMLParser):
    """Tags, attributes and the text of cells of a page, as a browser reads it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def read(results) -> Texts:
    return Texts(page_of(results))


# The page


def test_the_page_has_every_part(read):
    words = " ".join(read.words)
    for title in ("Ladder", "IoU of each class", "Confusion", "Best and worst images", "Seeds", "Growth", "Params"):
        assert title in read.words
    for rung in ("DSRG", "DSRG + CRF", "retrained", "retrained + CRF", "+10.0", "-10.0"):
        assert rung in read.words
    assert "never" not in read.words, "a class that nobody saw has no line and no column, only its place in the remarks"
    assert "Classes that no mask shows: never." in words and "7 to learn from, 3 to evaluate on" in words
    assert f"Tagged classes without any seed: {NASTY[1]}." in words
    assert "fg_thresh: 0.85" in words and "hue_spread: 30.0" in words
    assert {"Python", "3.12.9", "torch", "2.9.1+cpu"} <= set(read.words)
    pictures = [value[:15] for tag, name, value in read.attributes if (tag, name) == ("img", "src")]
    assert pictures.count("data:image/jpeg") == 2 * BEST_WORST_COUNT + 1 + STRIPS
    assert pictures.count("data:image/svg+") == 5 + len(CLASSES)


def test_best_and_worst_are_in_order_and_images_without_a_score_are_none(read):
    captions = [word for word in read.words if ": IoU " in word]
    best = [f"im{k}: IoU {k}.0 %" for k in (19, 18, 17, 16, 15, 14)]
    worst = [f"im{k}: IoU {k}.0 %" for k in (0, 1, 2, 4, 5, 6)]
    assert captions == best + worst


def test_names_are_text_wherever_they_stand(read):
    assert "script" not in read.tags and all(read.words.count(name) >= 5 for name in NASTY)


def test_the_page_asks_for_nothing(read, results):
    addresses = [value for _, name, value in read.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert addresses and all(value.startswith("data:") for value in addresses)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(read.tags)
    assert not re.search(r"url\(|@import", page_of(results))


def test_the_same_run_has_the_same_page_and_another_another(results):
    assert page_of(results) == page_of(results)
    assert page_of(results) != page_of(results, seed=1)


def test_points_set_by_hand_have_a_table(tmp_path, read):
    assert "Set by hand" not in read.words
    folder = write_results(tmp_path)
    counts = {"images": 3, "points": 7, "strokes": 2, "erasures": 1, "cells": 40, "ties": 0}
    path = folder / "make_seeds/metrics.json"
    write_json(path, json.loads(path.read_text()) | {"points": counts | {"labels": {"background": 4, NASTY[0]: 5}}})
    words = Texts(page_of(folder)).words
    assert any(word.startswith("7 points, 2 strokes and 1 erasures on 3 images") for word in words)
    assert words.count(NASTY[0]) == read.words.count(NASTY[0]) + 1


def test_many_classes_have_no_matrix_but_the_largest_confusions(tmp_path):
    classes = [f"class{k}" for k in range(MATRIX_MOST + 1)]
    read = Texts(page_of(write_results(tmp_path, classes), classes))
    assert ("table", "class", "matrix") not in read.attributes
    assert sum(" called " in word for word in read.words) == CONFUSIONS


def test_a_run_without_evaluation_masks_still_has_a_page(tmp_path):
    read = Texts(page_of(write_results(tmp_path, ids=[])))
    assert "Ladder" in read.words and "nan" not in " ".join(read.words).lower()


def test_times_are_put_in_instead_of_the_remark_where_it_stands(results, read):
    timed = with_times(page_of(results), {"prepare": 0.4, "train_cam": 1302.2})
    words = Texts(timed).words
    assert {"prepare", "0", "train_cam", "1,302", "all", "1,303"} <= {*words}
    assert not any("dsrg report" in word for word in words) and any("dsrg report" in word for word in read.words)
    with pytest.raises(InputError, match="no place for times; run `dvc repro evaluate`"):
        with_times(timed, {"prepare": 1})


# In a browser


@pytest.mark.parametrize(("width", "height", "mobile"), [(1280, 800, False), (390, 844, True)], ids=["desk", "phone"])
def test_the_page_opens_from_disk_and_fits(new_page, results, width, height, mobile):
    path, page = results / "report.html", new_page(width, height, mobile=mobile)
    path.write_text(with_times(page_of(results), {"prepare": 1}), encoding="utf-8")
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") > 2 * height
    bars = "[...document.querySelectorAll('.bar *')]"
    assert page.evaluate(f"{bars}.every(bar => bar.getBoundingClientRect().width > 0)")
    # whatever is wider than the window can be moved within its box
    loose = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert page.evaluate(f"{loose}.every(e => e.closest('.wide, pre'))")
    page.evaluate("() => { for (const img of document.images) img.loading = 'eager'; }")
    page.wait_for_function("[...document.images].every(img => img.complete && img.naturalWidth > 0)")
    assert set(NASTY) <= {head.strip() for head in page.locator("tbody th").all_inner_texts()}, "names are no markup"


# Charts


def test_a_line_lies_where_its_numbers_say_and_a_gap_where_there_is_none():
    def heights(values: list[float]) -> list[float]:
        svg = b64decode(line_chart([10, 20, 40], {"a": values})).decode()
        (line,) = re.findall(r'<path d="(M[^"]*)"[^>]*stroke: #0072b2', svg)
        return [float(y) for y in re.findall(r"[ML] \S+ (\S+)", line)]

    first, second, third = heights([0.0, 1.0, 4.0])
    assert first > second > third and first - third == pytest.approx(4 * (first - second))
    assert len(heights([math.nan, 2.0, 2.0])) == 2


@given(st.lists(st.floats(-5, 5), max_size=1000))
def test_long_lines_become_means_of_neighbors(values):
    found = thinned(values)
    assert len(found) <= MOST_POINTS
    every = -(-len(values) // MOST_POINTS)
    expected = [sum(values[k : k + every]) / len(values[k : k + every]) for k in range(0, len(values), every or 1)]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_text_on_every_shade_can_be_read():
    """A contrast of 4.5 is what the WCAG ask for."""

    def luminance(color: list[int]) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (one / 255 for one in color)]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for share in np.linspace(0, 1, 201):
        background, color = shade(float(share)).split("; ")
        back = luminance([int(number) for number in re.findall(r"\d+", background)])
        text = 1.0 if color == "color: #fff" else 0.0
        low, high = sorted((back, text))
        assert (high + 0.05) / (low + 0.05) >= 4.5, share
