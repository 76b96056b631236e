"""COCO's format: classes and tags from categories, masks from polygons and run lengths, and what can be wrong."""

import json
import unicodedata
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from dsrg.data.images import read_mask
from dsrg.errors import InputError
from dsrg.sources.coco import Shape, draw_mask, scan_coco
from dsrg.sources.scan import scan
from dsrg.sources.validation import check_records
from helpers.data import save_flat, write
from helpers.refusals import assert_problems, problems_of, refusals

H, W = 8, 10
RULES = {"pixels_max": H * W, "on_bad": "fail", "untagged": "background"}
SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]


def rle(mask, *, packed: bool) -> dict:
    """Run lengths: packed by pycocotools itself, or counted one by one."""
    if packed:
        return {
            "size": list(mask.shape),
            "counts": coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode(),
        }
    counts, now = [0], False
    for value in np.asarray(mask).ravel(order="F"):
        if value != now:
            counts.append(0)
            now = value
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def content(images: dict[int, str], annotations: list[tuple], categories=CATEGORIES) -> dict:
    """annotations: (image, category, segmentation or None)."""
    return {
        "images": [{"id": k, "file_name": name, "height": H, "width": W} for k, name in images.items()],
        "annotations": [
            {"id": 100 + k, "image_id": image, "category_id": category}
            | ({} if outline is None else {"segmentation": outline})
            for k, (image, category, outline) in enumerate(annotations)
        ],
        "categories": categories,
    }


def put(path: Path, values: object) -> None:
    write(path, values if isinstance(values, str) else json.dumps(values))


save = partial(save_flat, size=(H, W))
TRAIN = content({1: "a.jpg", 2: "b.jpg"}, [(1, 17, SQUARE), (1, 3, SQUARE), (1, 17, SQUARE), (2, 90, None)])
VAL = content({1: "a.jpg", 7: "c.jpg"}, [(1, 3, SQUARE)])


@pytest.fixture
def root(tmp_path):
    """COCO's own layout; both splits have an a.jpg and an image 1."""
    root = tmp_path / "coco"
    save(root, "train2017/a.jpg", "train2017/b.jpg", "val2017/a.jpg", "val2017/c.jpg")
    put(root / "annotations/instances_train2017.json", TRAIN)
    put(root / "annotations/instances_val2017.json", VAL)
    return root


def look(root, *, train="instances_train2017", val="instances_val2017"):
    return scan_coco(root, train=train, val=val)


def test_cocos_own_layout(root):
    found = look(root)
    assert problems_of(found) == [] and found.warnings == []
    assert found.classes == ["car", "cat", "toothbrush"]  # in the order of ids 3, 17, 90
    assert [(r.split, r.image, r.tags, r.mask is not None) for r in found.records] == [
        ("train", "train2017/a.jpg", ("car", "cat"), True),
        ("train", "train2017/b.jpg", ("toothbrush",), False),  # an object without a shape: no mask
        ("val", "val2017/a.jpg", ("car",), True),
        ("val", "val2017/c.jpg", (), True),  # nothing on it: background
    ]
    first, b, second, c = (record.id for record in found.records)
    assert (b, c) == ("b", "c") and first != second and {first[:2], second[:2]} == {"a-"}


def test_masks_are_written_checked_and_named(root, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    checked = check_records(look(root), **RULES, masks_to=masks)
    assert sorted(path.name for path in masks.iterdir()) == sorted(row.mask for row in checked.ground_truth)
    truth = {row.split + row.mask[0]: read_mask(masks / row.mask) for row in checked.ground_truth}
    square = np.zeros((H, W), bool)
    square[2:6, 2:6] = True
    np.testing.assert_array_equal(truth["vala"], square)  # car is class 1
    np.testing.assert_array_equal(truth["traina"], 255 * square)  # a car and two cats at one place
    assert not truth["valc"].any()
    assert check_records(look(root), **RULES).ground_truth == checked.ground_truth


@pytest.mark.parametrize("place", [".", "images", "all", "images/all", "annotations"])
def test_images_are_found_where_tools_put_them(tmp_path, place):
    save(tmp_path, f"{place}/sub/x.jpg")
    put(tmp_path / "annotations/all.json", content({5: "sub\\x.jpg"}, []))
    found = look(tmp_path, train="all", val=None)
    assert problems_of(found) == [] and (found.records[0].id, found.records[0].mask) == ("sub__x", None)
    assert found.records[0].image == f"{place}/sub/x.jpg".removeprefix("./")


@pytest.mark.parametrize("name", ["{nfc}", "sub/{nfc}", "/home/me/sub/{nfc}", "/data/local-files/?d=sub%2Fx%C3%BC.jpg"])
def test_images_and_classes_are_named_as_in_a_table(tmp_path, name):
    """Whatever system wrote the names, and wherever the images lay there."""
    nfc, nfd = (unicodedata.normalize(form, "xü") for form in ("NFC", "NFD"))
    save(tmp_path, f"images/sub/{nfd}.jpg")
    put(tmp_path / "all.json", content({5: name.format(nfc=f"{nfc}.jpg")}, [(5, 3, None)], [{"id": 3, "name": nfd}]))
    put(tmp_path / "classes.txt", nfd)
    found = look(tmp_path, train="all.json", val=None)
    assert problems_of(found) == [] and found.classes == [nfc]
    assert found.records[0].image == f"images/sub/{nfd}.jpg" and found.records[0].tags == (nfc,)
    assert bool(found.warnings) is name.startswith("/")


def test_a_file_beside_its_images_and_one_split_to_draw_from(tmp_path):
    save(tmp_path, *(f"train/{k}.jpg" for k in range(10)))
    put(
        tmp_path / "train/_annotations.coco.json",
        content({k: f"{k}.jpg" for k in range(10)}, [(k, 3, SQUARE) for k in range(10)]),
    )
    layout = {"source": "coco", "train": "train/_annotations.coco.json", "val": None, "tags": None, "separator": "|"}
    found = scan(tmp_path, **layout, val_share=0.3, split_seed=1)
    assert problems_of(found) == []
    assert sum(record.split == "val" for record in found.records) == 3


def test_whole_numbers_may_have_a_point(root):
    put(root / "annotations/instances_val2017.json", VAL | {"images": [{"id": 1, "file_name": "a.jpg", "height": 8.0}]})
    assert "height and width must be whole" in problems_of(look(root))[0]
    floats = VAL | {"images": [{"id": 1, "file_name": "a.jpg", "height": 8.0, "width": 10.0}]}
    put(root / "annotations/instances_val2017.json", floats)
    assert problems_of(look(root)) == [] and look(root).records[-1].mask(H, W).any()


def test_a_file_may_lack_categories_of_the_other(root):
    put(root / "annotations/instances_val2017.json", content({7: "c.jpg"}, [(7, 17, None)], CATEGORIES[2:]))
    found = look(root)
    assert problems_of(found) == [] and found.classes == ["car", "cat", "toothbrush"]
    assert found.records[-1].tags == ("cat",)


def test_chosen_classes(root):
    put(root / "classes.txt", "toothbrush\ncar\n")
    found = look(root)
    assert problems_of(found) == [] and found.classes == ["toothbrush", "car"]
    assert [record.tags for record in found.records] == [("car",), ("toothbrush",), ("car",), ()]
    assert np.unique(found.records[0].mask(H, W)).tolist() == [0, 2]  # the cats on the car are left out
    put(root / "classes.txt", "toothbrush\ncars\n")
    assert "classes.txt: 'cars' is no category of" in problems_of(look(root))[0]
    assert problems_of(look(root))[0].endswith("did you mean 'car'?")


@pytest.mark.parametrize(("count", "fine"), [(1, True), (254, True), (255, False), (1203, False)])
def test_how_many_classes(root, count, fine):
    many = [{"id": 2 * k, "name": f"thing {k}"} for k in range(1, count + 1)]
    put(root / "annotations/many.json", content({1: "a.jpg"}, [(1, 2, None)], many))
    save(root, "a.jpg")
    found = look(root, train="many", val=None)
    assert (problems_of(found) == []) is fine
    if not fine:
        assert f"{count} names; expected 1 to 254 classes (a label map has 8 bits a pixel" in found.problems[0]
        assert "classes.txt: no such file; it can choose up to 254 of the categories" in found.problems[1]
        put(root / "classes.txt", "thing 1\n")
        assert problems_of(look(root, train="many", val=None)) == []


def test_images_of_no_file_are_said(root):
    save(root, "val2017/b.jpg", "val2017/deep/{}.jpg", "other/x.jpg")
    assert look(root).warnings == ["2 images are in none of the files, so not used: val2017/b.jpg, val2017/deep/{}.jpg"]


def test_annotations_of_no_image_are_said(root):
    annotations = [(1, 3, None), (9, 3, None), (9, 4, None)]
    put(root / "annotations/instances_val2017.json", content({1: "a.jpg", 7: "c.jpg"}, annotations))
    found = look(root)
    assert problems_of(found) == []
    assert found.warnings == [
        f"{root}/annotations/instances_val2017.json: 2 annotations belong to no image of the file, so are left out"
    ]


A = {1: "a.jpg"}
# what the file of the evaluation split holds, what each problem says
BAD = {
    "no JSON": ("{", ["no readable JSON (EOF"]),
    "nested without end": ("[" * 100_000, ["no readable JSON (recursion limit exceeded"]),
    "half a character": ('{"images": [{"id": 1, "file_name": "\\ud800"}]}', ["no readable JSON ("]),
    "a list": ([], ["expected COCO's images, annotations and categories"]),
    "no images": (content({}, []), ["images: List should have at least 1 item"]),
    "no categories": (content(A, [], []), ["categories: List should have at least 1 item"]),
    "bad entries": (
        {"images": [{"id": 1}], "annotations": [{"image_id": True}, 3], "categories": [{"id": "3", "name": 3}]},
        [
            "images[0].file_name: missing",
            "annotations[0].image_id: expected a whole number",
            "annotations[0].category_id: missing",
            "annotations[1]: Input should be",
            "categories[0].id: expected a whole number",
            "categories[0].name: expected text",
        ],
    ),
    "an id twice": (
        content(A, []) | {"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "c.jpg"}]},
        ["2 images have the id 1"],
    ),
    "a category twice": (
        content(A, [], [*CATEGORIES, {"id": 3, "name": "bus"}]),
        ["2 categories have the id 3"],
    ),
    "a file twice": (content({1: "a.jpg", 2: "a.jpg"}, []), ["image 2: id 'a-"]),
    "other categories": (
        content(A, [], [{"id": 3, "name": "bus"}, *CATEGORIES[::2]]),
        ["category 3 is 'bus', but 'car' in"],
    ),
    "unknown category": (content(A, [(1, 4, None)]), ["image 1: category 4 is not in its categories"]),
    "no such image": (content({1: "a.jpg", 2: "z.jpg"}, []), ["image 2: no image 'z.jpg'; expected its path"]),
    "out of the root": (
        content({1: "../val2017/a.jpg"}, []),
        ["image 1: no image '../val2017/a.jpg'; did you mean 'val2017/a.jpg'?"],
    ),
    "an absolute path": (content({1: "/etc/passwd"}, []), ["image 1: no image '/etc/passwd'"]),
    "NUL": (content({1: "\0"}, []), ["image 1: no image"]),
    "no size": (
        content(A, []) | {"images": [{"id": 1, "file_name": "a.jpg", "height": "8", "width": 0}]},
        ["image 1: height and width must be whole numbers above 0"],
    ),
}


@pytest.mark.parametrize(("values", "expected"), BAD.values(), ids=BAD)
def test_bad_file(root, values, expected):
    path = root / "annotations/instances_val2017.json"
    put(path, values)
    assert_problems(problems_of(look(root)), expected, start=f"{path}: ")


def test_no_such_file(root):
    problems = problems_of(look(root, train="train", val="val2017/x.json"))
    assert "set data.train to one of those there: annotations/instances_train2017.json, annotations/inst" in problems[0]
    assert "set data.val to one of those there: none" in problems[1]


# Masks


def draw(*outlines, numbers=(1, 2, 3), size=None):
    shapes = [Shape(number, outline) for number, outline in zip(numbers, outlines, strict=False)]
    return draw_mask(H, W, shapes=shapes, size=size, where="x.json: image 1")


masks = st.lists(st.booleans(), min_size=H * W, max_size=H * W).map(lambda bits: np.array(bits).reshape(H, W))


LONG = np.zeros((700, 900), bool)  # its numbers have several characters, and differences below zero
LONG[5:690, 100:880] = LONG[:, 3] = True


@given(masks | st.just(LONG), st.booleans())
def test_run_lengths_are_what_pycocotools_packed(mask, packed):
    drawn = draw_mask(*mask.shape, shapes=[Shape(1, rle(mask, packed=packed))], size=None, where="")
    np.testing.assert_array_equal(drawn, mask)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools.decode with NumPy 2
@given(
    st.lists(st.lists(st.floats(-W, 2 * W).map(lambda x: round(x, 2)), min_size=3, max_size=5), min_size=2, max_size=2)
)
def test_polygons_are_drawn_as_pycocotools_draws_them(columns):
    points = list(zip(*columns, strict=False))
    polygon = [float(min(max(value, -H), 2 * H)) for point in points for value in point]
    (expected,) = coco_mask.frPyObjects([polygon], H, W)
    np.testing.assert_array_equal(draw([polygon]), coco_mask.decode(expected))


def test_parts_of_one_object_and_overlaps():
    left, right, both = [[0, 0, 4, 0, 4, H, 0, H]], [[6, 0, W, 0, W, H, 6, H]], [[0, 0, W, 0, W, 4, 0, 4]]
    labels = draw(left + right, both)
    assert labels[0].tolist() == [255] * 4 + [2] * 2 + [255] * 4
    assert labels[-1].tolist() == [1] * 4 + [0] * 2 + [1] * 4
    np.testing.assert_array_equal(draw(left, both, left, numbers=(1, 1, 1))[0], np.ones(W))
    assert draw(left, both, both, numbers=(1, 2, 3))[0].tolist() == [255] * W
    assert draw(both, [[0, 0, 2, 2]], [[5, 5, 5, 5, 5, 5]])[-1].tolist() == [0] * W  # no area, no pixel


FULL = H * W
BAD_SHAPES = {
    "odd": ([[1, 2, 3, 4, 5, 6, 7]], "expected polygons [x, y, x, y, ...]"),
    "boxes in boxes": ([[[1, 2], [3, 4], [5, 6]]], "expected polygons"),
    "not numbers": ([["a"] * 6], "could not convert"),
    "NaN": ([[float("nan")] * 6], "is not finite"),
    "far away": ([[0, 0, 1e9, 0, 5, 5]], "lies far outside of 10 x 8 pixels"),
    "beyond floats": ([[0, 0, 10**400, 0, 5, 5]], "too large"),
    "another size": ({"size": [W, H], "counts": [FULL]}, "run lengths for [10, 8]"),
    "no counts": ({"size": [H, W]}, "'counts'"),
    "too short": ({"size": [H, W], "counts": [FULL - 1]}, "must cover 8 x 10 pixels, once each"),
    "too long": ({"size": [H, W], "counts": [0, FULL, 1]}, "must cover"),
    "negative": ({"size": [H, W], "counts": [-1, FULL + 1]}, "must cover"),
    "wrapping": ({"size": [H, W], "counts": [2**62, 2**62, 2**62, 2**62, FULL]}, "must cover"),
    "huge": ({"size": [H, W], "counts": [10**30]}, "too"),
    "nested": ({"size": [H, W], "counts": [[FULL]]}, "must cover"),
    "empty text": ({"size": [H, W], "counts": ""}, "must cover"),
    "other characters": ({"size": [H, W], "counts": "0 0"}, "none of COCO's"),
    "cut within a number": ({"size": [H, W], "counts": "o"}, "end within a number"),
    "a number without end": ({"size": [H, W], "counts": "o" * 50}, "none of COCO's"),
}


@pytest.mark.parametrize(("outline", "reason"), BAD_SHAPES.values(), ids=BAD_SHAPES)
def test_bad_shape(outline, reason):
    problem, other = refusals(draw, SQUARE, outline, [[1]])
    assert problem.startswith("x.json: image 1: shape 2 of 3: ") and reason in problem
    assert other.startswith("x.json: image 1: shape 3 of 3: ")


def test_an_image_of_another_size(root):
    with pytest.raises(
        InputError, match="8 x 10 pixels are annotated, but the image has 10 x 8 .as turned by its EXIF"
    ):
        draw(SQUARE, size=(W, H))
    Image.fromarray(np.zeros((W, H, 3), np.uint8)).save(root / "val2017/c.jpg")
    with pytest.raises(InputError, match="instances_val2017.json: image 7: 10 x 8 pixels are annotated"):
        check_records(look(root), **RULES)
