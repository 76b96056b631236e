"""Exports of Label Studio, CVAT and labelme as rows of points.csv."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsrg.errors import InputError
from dsrg.inspect.import_points import decode_rle, painted_discs, read_exports
from dsrg.sources.points import PointReader
from helpers.command import run_dsrg
from helpers.data import picture, save_index

CLASSES = ["cat", "dog", "sofa"]
CAT, DOG = 1, 2
ELSEWHERE = "images are named by a path or address elsewhere, and found by its end"


def packed(numbers: bytes, lengths: tuple[int, ...] = (3, 4, 8, 16)) -> list[int]:
    """Numbers in Label Studio's packing, every run of equal ones as a part, plain loops."""
    bits = f"{len(numbers):032b}{7:05b}" + "".join(f"{length - 1:04b}" for length in lengths)
    while numbers:
        run = len(numbers) - len(numbers.lstrip(numbers[:1]))
        run = min(run, 2 ** max(lengths))
        choice = next(k for k, length in enumerate(lengths) if run <= 2**length)
        bits += f"1{choice:02b}{run - 1:0{lengths[choice]}b}{numbers[0]:08b}"
        numbers = numbers[run:]
    return [int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8)]


def brush(*, height: int = 20, width: int = 30) -> list[int]:
    """A stroke 5 pixels thick along the pixels (5, 10) to (25, 10)."""
    alpha = np.zeros((height, width), np.uint8)
    alpha[8:13, 5:26] = 255
    return packed(np.repeat(alpha, 4).tobytes())


SIZE = {"original_width": 30, "original_height": 20, "image_rotation": 0}
CLICK = {"type": "keypointlabels", "value": {"x": 50, "y": 25.0, "width": 0.5, "keypointlabels": ["cat"]}} | SIZE
STROKE = {"type": "brushlabels", "value": {"format": "rle", "rle": brush(), "brushlabels": ["background"]}} | SIZE
BOX = {"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 9, "height": 9}}
CANCELLED = {"was_cancelled": True, "result": [{"type": "keypointlabels", "value": {}}]}
TASKS = [
    {
        "id": 7,
        "data": {"image": "/data/upload/1/a.png"},
        "annotations": [{"result": [CLICK, STROKE, BOX]}, CANCELLED],
        "predictions": [{"result": []}],
    },
    {
        "data": {"photo": "b.png", "note": "1.5"},
        "annotations": [
            {
                "result": [
                    {"id": "x", "type": "keypoint", "value": {"x": 10, "y": 10}},
                    {"id": "x", "type": "labels", "value": {"labels": ["dog"]}},
                ]
            }
        ],
    },
]
SHORT = [{"id": 7, "image": "a.png", "kp": [{"x": 50, "y": 25, "keypointlabels": ["cat"]} | SIZE], "tags": ["cat"]}]
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta/>
  <image id="0" name="a.png" width="60" height="40">
    <points label="cat" occluded="0" points="30.0,10.0;4,6" z_order="0"><attribute name="x">1</attribute></points>
    <polyline label="background" points="0,0;60.0,40.0"/>
    <box label="cat" xtl="1" ytl="1" xbr="2" ybr="2"/>
  </image>
  <image id="1" name="b.png" width="30" height="20"/>
</annotations>"""
LABELME = {
    "version": "5.5.0",
    "shapes": [
        {"label": "cat", "points": [[15.0, 5.0]], "shape_type": "point"},
        {"label": "erase", "points": [[0, 0], [5, 5], [9, 5]], "shape_type": "linestrip"},
        {"label": "cat", "points": [[0, 0], [1, 1], [2, 0]], "shape_type": "polygon"},
    ],
    "imagePath": "..\\pictures\\a.png",
    "imageData": None,
    "imageHeight": 20,
    "imageWidth": 30,
}


@pytest.fixture
def reader(tmp_path):
    """Two training images of 30 x 20 pixels."""
    pictures = {name: picture(20, 30, seed=number) for number, name in enumerate("ab")}
    return PointReader(save_index(tmp_path, pictures, [[1, 0, 0], [0, 1, 0]]), CLASSES, tags="add")


def imported(path: Path, reader: PointReader, content: object, *, radius: float = 0) -> tuple[dict, list[str]]:
    """Marks by image, as (label, radius, path), and notes. Raises InputError with all that is wrong."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    found = read_exports([path], reader, radius=radius)
    if found.problems:
        raise InputError(found.problems)
    marks = reader.read(found.rows).marks
    return {name: [(m.label, m.radius, m.path.tolist()) for m in own] for name, own in marks.items()}, found.notes()


def test_key_points_and_brushes_of_label_studio(tmp_path, reader):
    marks, notes = imported(tmp_path / "export.json", reader, TASKS, radius=2)
    point, *discs = marks["a"]
    assert point == (CAT, 2, [[15, 5]]) and marks["b"] == [(DOG, 2, [[3, 2]])]
    along = [x for label, radius, ((x, y),) in discs if (label, radius, y) == (0, 2, 10.5)]
    assert along == [7.5, 10.5, 13.5, 16.5, 19.5, 22.5] and {disc[:2] for disc in discs} == {(0, 0), (0, 2)}
    assert notes == [
        "1 cancelled annotations of Label Studio left out: no points or strokes of a person",
        "1 predictions of Label Studio left out: no points or strokes of a person",
        "1 rectanglelabels of Label Studio left out: no points or strokes of a person",
        f"1 {ELSEWHERE}: /data/upload/1/a.png = a.png",
    ]
    assert imported(tmp_path / "short.json", reader, SHORT)[0] == {"a": [(CAT, 0, [[15, 5]])]}


def test_points_and_polylines_of_cvat_drawn_on_a_larger_copy(tmp_path, reader):
    marks, notes = imported(tmp_path / "annotations.xml", reader, CVAT.replace("a.png", "task/a.png"))
    assert marks == {"a": [(CAT, 0, [[15, 5]]), (CAT, 0, [[2, 3]]), (0, 0, [[0, 0], [30, 20]])]}
    told = "1 box of CVAT left out: no points or strokes of a person"
    assert notes == [told, f"1 {ELSEWHERE}: task/a.png = a.png"]


def test_points_and_linestrips_of_labelme(tmp_path, reader):
    marks, notes = imported(tmp_path / "a.json", reader, LABELME)
    assert marks == {"a": [(CAT, 0, [[15, 5]]), (255, 0, [[0, 0], [5, 5], [9, 5]])]}
    assert notes[0] == "1 polygon of labelme left out: no points or strokes of a person"
    assert notes[1].endswith("pictures/a.png = a.png") and len(notes) == 2


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "no readable JSON"),
        ([1], "neither tasks of Label Studio nor shapes of labelme"),
        ({"images": [], "annotations": []}, "expected an export of Label Studio"),
        (
            [{"data": {"image": "a.png"}, "annotations": 5}],
            "task 1: expected a task as Label Studio writes it (annotations",
        ),
        ([{"data": {}, "annotations": TASKS[0]["annotations"]}], "task 1, result 1: its task names no image"),
        ([{"image": "a.png", "k": [{"keypointlabels": ["cat"]}]}], "task 1, result 1: expected x and y, in percent"),
        ([{"image": "a.png", "k": [{"x": 1, "y": 1, "keypointlabels": []}]}], 'expected one, as ["cat"]'),
        ([{"image": "a.png", "k": [{"x": 1, "y": 120, "keypointlabels": ["cat"]}]}], "24 lies outside of the image"),
        ([{"image": "a.png", "k": [{"x": 1, "y": 1, "keypointlabels": ["Cat"]}]}], "did you mean 'cat'"),
        ([{"image": "c.png", "k": [{"x": 1, "y": 1, "keypointlabels": ["cat"]}]}], "result 1: no image 'c.png'"),
        (
            [{"image": "a.png", "k": [{"x": 1, "y": 1, "keypointlabels": ["cat"], "image_rotation": 90}]}],
            "the image was turned by 90 degrees",
        ),
        (
            [{"image": "a.png", "k": [{"format": "rle", "rle": [0] * 9, "brushlabels": ["cat"]} | SIZE]}],
            "rle of 0 numbers of 1 bits; expected 2400 of 8",
        ),
        (
            [{"image": "a.png", "k": [{"format": "rle", "rle": brush()[:9], "brushlabels": ["cat"]} | SIZE]}],
            "rle is cut off",
        ),
        ([{"image": "a.png", "k": [{"format": "rle", "rle": [999], "brushlabels": ["cat"]} | SIZE]}], "0 to 255"),
        (LABELME | {"imageHeight": 45}, "shape 1: drawn on 30 x 45 pixels, but a has 30 x 20"),
        (LABELME | {"imagePath": None}, "expected imagePath and a list of shapes"),
        (LABELME | {"shapes": [{"shape_type": "point", "label": "cat", "points": [[1]]}]}, "shape 1: expected a label"),
        ("<annotations>", "no readable XML"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotations/>', "declares a DOCTYPE"),
        ("<annotation/>", "<annotation>; export the task as `CVAT for images 1.1`"),
        ("<annotations><track/></annotations>", "tracks of a video; export"),
        (CVAT.replace("30.0,10.0", "30.0"), "image 'a.png', shape 1: expected a label and points as 12.5,30.0"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, reader, content, said):
    is_xml = isinstance(content, str) and "<" in content
    with pytest.raises(InputError) as refused:
        imported(tmp_path / ("annotations.xml" if is_xml else "export.json"), reader, content)
    assert said in str(refused.value)


@given(st.binary(min_size=1, max_size=60) | st.integers(1, 400).map(bytes), st.permutations([3, 4, 8, 9]))
def test_packed_numbers_are_read(numbers, lengths):
    assert decode_rle(bytes(packed(numbers, tuple(sorted(lengths)))), len(numbers)).tobytes() == numbers


def test_parts_of_different_numbers_are_read():
    """A head, then one part of three numbers: 1, 2, 3."""
    bits = f"{3:032b}{7:05b}" + f"{1:04b}" * 4 + "0" + "00" + "10" + f"{1:08b}{2:08b}{3:08b}"
    code = bytes(int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8))
    assert decode_rle(code, 3).tolist() == [1, 2, 3]


@given(arrays(np.bool_, (7, 9)) | st.integers(1, 3).map(lambda r: cv2.circle(np.zeros((7, 9)), (4, 3), r, 1, -1) > 0))
def test_discs_lie_within_what_is_painted_and_leave_edges_only(painted):
    discs = [*painted_discs(painted)]
    for y in range(7):
        for x in range(9):
            near = [(math.hypot(x - u, y - v), radius) for u, v, radius in discs]
            if any(distance <= radius for distance, radius in near):
                assert painted[y, x]
            elif painted[y, x]:
                assert any(distance <= 1.5 * radius for distance, radius in near)


def test_the_command_adds_what_is_not_there_yet_and_nothing_when_something_is_wrong(finished_copy):
    table, folder = Path("data/points.csv"), Path("labelme")
    table.write_text("image,x,y,class,radius,stroke\ntrain0000,1,1,background,,4\n")
    shapes = [
        {"label": "background", "points": [[1.04, 1]], "shape_type": "point"},
        {"label": "background", "points": [[1, 2], [3, 4]], "shape_type": "line"},
    ]
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps({"imagePath": "/elsewhere/train0000.jpg", "shapes": shapes}))
    assert "1 others were there already" in run_dsrg("import-points", "labelme")
    stroke = "JPEGImages/train0000.jpg,{},background,,5"
    rows = ["train0000,1,1,background,,4", stroke.format("1,2"), stroke.format("3,4")]
    assert table.read_text().splitlines()[1:] == rows
    assert "0 points and 0 strokes added" in run_dsrg("import-points", "labelme")
    assert table.read_text().splitlines()[1:] == rows
    (folder / "b.json").write_text(json.dumps({"imagePath": "train0001.jpg", "shapes": [shapes[0] | {"label": "dgo"}]}))
    (folder / "c.xml").write_text("<a>")
    said = run_dsrg("import-points", "labelme", code=2)
    assert "labelme/b.json: shape 1: class 'dgo'" in said and "labelme/c.xml: no readable XML" in said
    assert table.read_text().splitlines()[1:] == rows
    assert "no JSON or XML file in this folder" in run_dsrg("import-points", "data/shapes/JPEGImages", code=2)
