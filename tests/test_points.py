"""Points and strokes beside tags: what they say of the cells of the grid, their table, and what comes of them."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsrg.artifacts.seeds_h5 import read_seeds
from dsrg.data.classes import read_classes
from dsrg.data.index import read_index
from dsrg.errors import InputError
from dsrg.files import sha256
from dsrg.inference.label_maps import predicted_labels
from dsrg.inspect.editing import Editor
from dsrg.method.grid import UNLABELED
from dsrg.method.points import NO_MARK, Mark, mark_cells, with_marks
from dsrg.params import load_params
from dsrg.project import load_project
from dsrg.sources.points import COLUMNS, Points, read_points
from helpers import ROOT
from helpers.command import run_dsrg
from helpers.data import picture, save_index
from helpers.project import changed_params, run_stage
from helpers.refusals import assert_problems, refusals

GRID = 5
SIZE = {"height": 9, "width": 9, "grid": GRID, "classes": 2}  # a cell every other pixel


def point(label: int, *path: tuple[float, float], radius: float = 0) -> Mark:
    return Mark(label, radius, np.array(path, np.float64))


def drawn(*marks: Mark, **size: int) -> list[str]:
    """Cells as letters: 0 background, A B the classes, x erased or tied, a dot where no mark is."""
    cells, _ = mark_cells(marks, **SIZE | size)
    letters = {NO_MARK: ".", UNLABELED: "x", 0: "0", 1: "A", 2: "B"}
    return ["".join(letters[label] for label in row) for row in cells.tolist()]


# Cells


def test_a_stroke_labels_the_cells_under_its_line():
    assert drawn(point(1, (0, 0), (8, 0), (8, 8))) == ["AAAAA", "....A", "....A", "....A", "....A"]
    assert drawn(point(1, (0, 4), (8, 4), radius=2)) == [".....", "AAAAA", "AAAAA", "AAAAA", "....."]


def test_points_win_over_every_made_seed():
    cells, _ = mark_cells([point(2, (0, 0)), point(UNLABELED, (8, 8))], **SIZE)
    seeds = with_marks(torch.ones(GRID, GRID, dtype=torch.uint8), cells)
    assert seeds[0, 0] == 2 and seeds[4, 4] == UNLABELED and seeds.flatten()[1:-1].eq(1).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (300, 2)])
def test_any_shape_of_image(height, width):
    cells, _ = mark_cells([point(1, (0, 0)), point(2, (width, height))], **SIZE | {"height": height, "width": width})
    assert (cells != NO_MARK).any()


def literal(marks: list[Mark], *, height: int, width: int, grid: int, classes: int) -> tuple[np.ndarray, int]:
    """The rule of points in plain loops: a cell has the class of most points on it; a tie, or an erasure, unlabels."""
    cells, ties = np.full((grid, grid), NO_MARK), 0
    for row in range(grid):
        for column in range(grid):
            y, x = row * (height - 1) / (grid - 1), column * (width - 1) / (grid - 1)
            votes, erased = [0] * (classes + 1), False
            for mark in marks:
                ((px, py),) = np.minimum(np.floor(mark.path), [width - 1, height - 1])
                nearest = (
                    np.floor(px * (grid - 1) / max(width - 1, 1) + 0.5) == column
                    and np.floor(py * (grid - 1) / max(height - 1, 1) + 0.5) == row
                )
                if nearest or (mark.radius and (x - px) ** 2 + (y - py) ** 2 <= mark.radius**2):
                    if mark.label == UNLABELED:
                        erased = True
                    else:
                        votes[mark.label] += 1
            if max(votes):
                best = [label for label, count in enumerate(votes) if count == max(votes)]
                cells[row, column] = best[0] if len(best) == 1 else UNLABELED
                ties += len(best) > 1
            elif erased:
                cells[row, column] = UNLABELED
    return cells, ties


@given(st.data())
def test_points_are_what_the_rule_says(data):
    size = {"height": data.draw(st.integers(2, 30)), "width": data.draw(st.integers(2, 30)), "grid": 5, "classes": 2}
    place = st.tuples(st.integers(0, size["width"]), st.integers(0, size["height"]))
    one = st.builds(
        lambda label, radius, where: point(label, where, radius=radius),
        st.sampled_from([0, 1, 2, UNLABELED]), st.integers(0, 8) | st.just(0.1), place,
    )  # fmt: skip
    marks = data.draw(st.lists(one, max_size=8))
    cells, ties = mark_cells(marks, **size)
    expected, tied = literal(marks, **size)
    assert (cells == expected).all() and ties == tied


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=6), st.integers(0, 5))
def test_a_stroke_is_one_connected_line_through_its_points(path, radius):
    cells, _ = mark_cells([point(1, *path, radius=radius)], height=41, width=41, grid=11, classes=1)
    ends, _ = mark_cells([point(1, place) for place in path], height=41, width=41, grid=11, classes=1)
    covered = cells == 1
    assert covered[ends == 1].all()
    assert cv2.connectedComponents(covered.astype(np.uint8), connectivity=8)[0] == 2
    thin, _ = mark_cells([point(1, *path)], height=41, width=41, grid=11, classes=1)
    assert covered[thin == 1].all()


# The table

CLASSES = ["cat", "dog", "sofa"]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """`a` and `b` are learned from, tagged cat and dog; `v` is evaluated."""
    pictures = {name: picture(20, 30, seed=number) for number, name in enumerate("abv")}
    found = save_index(tmp_path_factory.mktemp("images"), pictures, [[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    return replace(found, splits=["train", "train", "val"])


def read(tmp_path, index, *lines: str, header: str = ",".join(COLUMNS), tags: str = "add", **options: str) -> Points:
    path = tmp_path / "points.csv"
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return read_points(path, index, CLASSES, tags=tags, **options)


def test_rows_become_marks_in_order(tmp_path, index):
    points = read(
        tmp_path, index, "a,1,2,cat,,", "a.png,3.5,4e0,background,5,", "b,1,1,dog,,1", "b,9,9,erase,2,", "b,3,3,dog,,1"
    )  # fmt: skip
    told = {name: [(m.label, m.radius, m.path.tolist()) for m in marks] for name, marks in points.marks.items()}
    assert told == {
        "a": [(1, 0, [[1, 2]]), (0, 5, [[3.5, 4]])],
        "b": [(2, 0, [[1, 1], [3, 3]]), (UNLABELED, 2, [[9, 9]])],
    }
    assert points.warnings == [] and points.added == {}


@pytest.mark.parametrize(
    "header, line",
    [
        ("image,x,y,class", "a,1,2,cat"),
        ("class;y;note;x;image", "cat;2;mine;1;a"),
        ("Image\tX\tY\tClass", "a.png\t1\t2\tcat"),
        ("\ufeffimage,x,y,class,stroke", "a,1,2,cat,7"),
    ],
)
def test_a_table_as_people_write_it(tmp_path, index, header, line):
    (mark,) = read(tmp_path, index, line, header=header).marks["a"]
    assert (mark.label, mark.radius, mark.path.tolist()) == (1, 0, [[1, 2]])


@pytest.mark.parametrize(
    "line, said",
    [
        ("c,1,1,cat,,", "points.csv:2: no image 'c'"),
        ("a,1,1,Cat,,", "none of the 3 classes (cat ... sofa), nor background or erase; did you mean 'cat'"),
        ("a,1,1,backgroud,,", "did you mean 'background'?"),
        ("a,1,1,1,,", "classes are named, not numbered"),
        ("a,1,1,,,", "class '' is none of"),
        ("a,31,1,cat,,", "31, 1 lies outside of the image; a has 30 x 20 pixels"),
        ("a,1,-0.5,cat,,", "1, -0.5 lies outside"),
        ("a,one,1,cat,,", "x 'one'; expected a number"),
        ("a,nan,1,cat,,", "x 'nan'; expected a number"),
        ("a,1e999,1,cat,,", "x '1e999'; expected a number"),
        ("a,1_0,1,cat,,", "x '1_0'; expected a number"),
        ("a,,1,cat,,", "x ''; expected a number"),
        ("a,1,1,cat,-1,", "radius -1; expected 0 to 30 pixels"),
        ("a,1,1,cat,31,", "radius 31; expected 0 to 30 pixels"),
        ("a,1,1,cat,r,", "radius 'r'; expected a number"),
        ("a,1,1,cat,,x", "stroke 'x'; expected a whole number"),
        ("a,1,1,cat", "4 cells under 6 columns"),
        ('a,1,1,"cat,,', "unexpected end of data"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, index, line, said):
    assert_problems(refusals(read, tmp_path, index, line), [said])


@pytest.mark.parametrize("header", ["", "image,x,y", "image,x,y,class,class", "image,x,y,class,radius,radius"])
def test_a_table_without_its_columns_is_refused(tmp_path, index, header):
    with pytest.raises(InputError, match="points.csv:1: (no|more than one) column"):
        read(tmp_path, index, header=header)


def test_all_offenders_at_once_kind_by_kind(tmp_path, index):
    lines = "a,99,1,cat,,", "c,1,1,cat,,", "a,1,1,dgo,,", "a,1,99,cat,,"
    problems = refusals(read, tmp_path, index, *lines, tags="refuse")
    assert_problems(problems, [": no image ", ": 99, 1 lie", ": 1, 99 lie", ": class 'dg"])


def test_a_stroke_has_one_class_and_one_radius(tmp_path, index):
    lines = "a,1,1,cat,,1", "a,2,2,background,,1", "a,2,2,cat,3,1", "b,2,2,dog,3,1"
    assert_problems(refusals(read, tmp_path, index, *lines), 2 * ["stroke 1 of a begins with another class"])


def test_a_class_that_is_no_tag_is_added_or_refused(tmp_path, index):
    lines = "a,1,1,dog,,", "a,2,2,dog,,", "a,3,3,cat,,", "b,1,1,sofa,,"
    points = read(tmp_path, index, *lines)
    assert points.added == {"a": {2}, "b": {3}}
    assert points.warnings == [
        "2 images have points of a class that is not among their tags, which is added: a (dog), b (sofa)"
    ]
    assert points.tagged(index).present.tolist() == [
        [True, True, True, False], [True, False, True, True], [True, True, True, False]
    ]  # fmt: skip
    with pytest.raises(InputError, match="'dog' is no tag of a; tag the image with it, or set data.points_tags: add"):
        read(tmp_path, index, *lines, tags="refuse")


def test_points_of_other_images_are_told(tmp_path, index):
    points = read(tmp_path, index, "v,1,1,cat,,", "gone.jpg,1,1,cat,,", "a,1,1,cat,,", unknown="skip")
    assert list(points.marks) == ["a"]
    assert points.warnings == [
        "1 images of points are evaluated, not learned from; their points are not used: v",
        "1 images of points are not among the data; their points are left out: gone.jpg",
    ]


def test_a_class_called_erase_comes_first(tmp_path, index):
    path = tmp_path / "points.csv"
    path.write_text("image,x,y,class\na,1,1,erase\n")
    assert read_points(path, index, ["erase", "dog", "sofa"], tags="add").marks["a"][0].label == 1


# The stage


def made(folder) -> dict[str, str]:
    files = [folder / "data/seeds.h5", *(folder / "results/make_seeds").rglob("*.*")]
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def test_without_points_the_same_bytes(finished_copy):
    """No table, a table of the header alone, and points that say nothing of training images."""
    before = made(finished_copy)
    assert "points" not in json.loads((finished_copy / "results/make_seeds/metrics.json").read_text())
    (finished_copy / "data/points.csv").write_text("image,x,y,class\nval0000,1,1,background\n")
    run_stage("make_seeds")
    assert made(finished_copy) == before
    params = finished_copy / "params.yaml"
    params.write_text(changed_params(params, {"data": {"points": None}}))
    (finished_copy / "data/points.csv").unlink()
    run_stage("make_seeds")
    assert made(finished_copy) == before


def test_points_reach_seeds_report_cues_and_the_tags(finished_copy, monkeypatch):
    classes = read_classes(finished_copy / "data/classes.txt")
    index = read_index(finished_copy / "data/index.csv", classes).split("train")
    before = read_seeds(finished_copy / "data/seeds.h5", classes=classes)
    was = np.asarray(before.seeds)
    new = next(k for k in range(1, len(classes) + 1) if not index.present[0, k])
    height, width = int(index.heights[0]), int(index.widths[0])
    lines = [f"train0000,0,0,{classes[new - 1]},,", f"train0000,{width},{height},background,,"]
    lines += [f"{index.ids[1]},{index.widths[1] / 2},{index.heights[1] / 2},erase,{index.widths[1]},"]
    (finished_copy / "data/points.csv").write_text("\n".join([",".join(COLUMNS), *lines, ""]))
    run_stage("make_seeds")
    after = read_seeds(finished_copy / "data/seeds.h5", classes=classes)
    assert after.seeds[0][0, 0] == new and after.seeds[0][-1, -1] == 0
    assert (after.seeds[1] == UNLABELED).all() and (np.asarray(after.seeds)[2:] == was[2:]).all()
    assert after.present[0, new] and not before.present[0, new] and new in after.maps("train0000")[1]
    metrics = json.loads((finished_copy / "results/make_seeds/metrics.json").read_text())
    labels = {"background": 1, classes[new - 1]: 1}
    counts = {"images": 2, "points": 2, "strokes": 0, "erasures": 1, "cells": 2, "ties": 0, "labels": labels}
    assert metrics["points"] == counts
    labeled = []

    def recorded(segmenter, index, *rest, **options):
        labeled.append(index)
        return predicted_labels(segmenter, index, *rest, **options)

    monkeypatch.setattr("stages.make_pseudo_labels.predicted_labels", recorded)
    run_stage("make_pseudo_labels")
    assert labeled[0].present[0, new], "the pseudo label may show it"
    run_dsrg("export-cues", "--list", "list.txt", "--out", "cues.pickle")


def test_check_looks_at_points(finished_copy):
    path = finished_copy / "data/points.csv"
    for content, said in (
        ("image,x,y,class\ntrain0000,1,1,dgo\n", "data/points.csv:2: class 'dgo' is none of"),
        (None, "data.points: data/points.csv: not there; expected the path of a file"),
    ):
        path.unlink() if content is None else path.write_text(content)
        assert said in run_dsrg("check", code=2)


def test_a_project_comes_without_points():
    assert (ROOT / "data/points.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert load_params(ROOT / "params.yaml").data.points == load_project().paths.points.as_posix()


# The table as the page changes it


CHANGES = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.lists(st.tuples(st.sampled_from([*CLASSES, "background", "erase"]), st.integers(1, 3)), max_size=3),
        st.lists(st.integers(0, 5), max_size=2),
        st.booleans(),
    ),
    max_size=6,
)
FOREIGN = {"class": "sofa", "radius": 7, "path": [[1, 1]]}


@given(changes=CHANGES)
def test_what_is_known_of_a_changed_table_is_what_it_says(index, tmp_path_factory, changes):
    """Only the changed image is read anew; the whole table, read anew, says the same. What another wrote stays."""
    path = tmp_path_factory.mktemp("table") / "points.csv"
    path.write_text(",".join(COLUMNS) + "\n")
    editor = Editor(path, index, CLASSES, tags="add", unknown="fail")
    foreign = 0
    for image_id, new, places, by_another in changes:
        there = [mark for mark in editor.marks(image_id) if mark != FOREIGN]
        remove = [there[place] for place in {*places} if place < len(there)]
        add = [{"class": name, "radius": 0, "path": [[k, k] for k in range(count)]} for name, count in new]
        editor.change(image_id, add=add, remove=remove)
        assert editor.marks(image_id)[::-1][: len(add)] == add[::-1]  # as sent: so the page can remove them
        anew = Editor(path, index, CLASSES, tags="add", unknown="fail")
        for known in "ab":
            assert editor.marks(known) == anew.marks(known) and editor.added(known) == anew.added(known)
        assert len(editor.marks(image_id)) == len(there) + len(add) - len(remove) + foreign * (image_id == "a")
        if by_another:
            path.write_text(path.read_text() + "a,1,1,sofa,7,\n")
            foreign += 1
