"""The VOC layout: what is read from a sound tree, and one clear line for each thing that can be wrong with it."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest

from dsrg.data.classes import VOC_CLASSES
from dsrg.errors import InputError
from dsrg.sources.validation import Record, check_records
from dsrg.sources.voc import scan_voc, untagged_index
from helpers import REAL_VOC
from helpers.data import annotation, encoded, save_voc, write
from helpers.refusals import assert_problems, problems_of, refusals

REAL_LISTS = {"train": "trainaug", "val": "val"}
LISTS = "ImageSets/Segmentation"


@pytest.fixture
def root(tmp_path):
    """A sound tree: a and b to train on, c with a mask to evaluate on."""
    root = tmp_path / "VOC"
    save_voc(root, {"a": "cat", "b": "dog cat", "c": "dog"}, train="a\nb\n", val="c\n")
    write(root / "SegmentationClass/c.png", encoded(np.full((4, 6), 12, np.uint8), "PNG"))
    return root


def scan(root):
    return scan_voc(root, train="train", val="val")


def test_sound_tree(root):
    found = scan(root)
    assert problems_of(found) == []
    assert found.classes == VOC_CLASSES and len(VOC_CLASSES) == 20
    assert found.records == [
        Record("a", "train", "JPEGImages/a.jpg", ("cat",), None),
        Record("b", "train", "JPEGImages/b.jpg", ("dog", "cat"), None),
        Record("c", "val", "JPEGImages/c.jpg", ("dog",), "SegmentationClass/c.png"),
    ]


@pytest.mark.parametrize("text", [b"a\r\nb\r\n", b"a\nb", b"\n a \n\n\nb\t\n", b"\xef\xbb\xbfa\nb\n"])
def test_lists_of_any_editor(root, text):
    write(root / f"{LISTS}/train.txt", text)
    found = scan(root)
    assert problems_of(found) == [] and [record.id for record in found.records] == ["a", "b", "c"]


def test_difficult_objects_are_tags_and_parts_are_not(root):
    objects = "<name> cat </name><difficult>1</difficult><part><name>head</name></part>"
    write(root / "Annotations/a.xml", f"<annotation><object>{objects}</object><object>{objects}</object></annotation>")
    found = scan(root)
    assert problems_of(found) == [] and found.records[0].tags == ("cat",)


def test_own_classes(root):
    write(root / "classes.txt", "dog\ncat\n")
    assert scan(root).classes == ["dog", "cat"]


def test_images_of_other_formats(root):
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages/a.PNG")
    write(root / "JPEGImages/notes.txt", "no image")
    found = scan(root)
    assert problems_of(found) == [] and found.records[0].image == "JPEGImages/a.PNG"


def test_names_in_other_code_points_are_the_same_names(root):
    """Those of lists, images, annotations, masks and classes."""
    nfc, nfd = (unicodedata.normalize(form, "ä") for form in ("NFC", "NFD"))
    for path in (root / "JPEGImages/c.jpg", root / "Annotations/c.xml", root / "SegmentationClass/c.png"):
        path.rename(path.with_stem(nfd))
    write(root / f"{LISTS}/val.txt", nfc)
    write(root / f"Annotations/{nfd}.xml", annotation(nfd))
    write(root / "classes.txt", f"cat\ndog\n{nfc}\n")
    found = scan(root)
    assert problems_of(found) == [] and found.warnings == []
    assert found.records[-1] == Record(nfc, "val", f"JPEGImages/{nfd}.jpg", (nfc,), f"SegmentationClass/{nfd}.png")


@pytest.mark.parametrize("name", ["c.PNG", "c.jpg"])
def test_no_mask_is_passed_over(root, name):
    """One of another kind is looked at, so refused, and one that fits no image is named."""
    (root / "SegmentationClass/c.png").rename(root / "SegmentationClass" / name)
    assert scan(root).records[-1].mask == f"SegmentationClass/{name}"
    (root / "SegmentationClass" / name).rename(root / "SegmentationClass/c_mask.png")
    assert scan(root).warnings == ["1 masks belong to no image: SegmentationClass/c_mask.png"]


def test_masks_of_sbd_stand_in_where_voc_has_none(root):
    for image_id in ("a", "c"):
        write(root / f"SegmentationClassAug/{image_id}.png", encoded(np.full((4, 6), 8, np.uint8), "PNG"))
    masks = [record.mask for record in scan(root).records]
    assert masks == ["SegmentationClassAug/a.png", None, "SegmentationClass/c.png"]


# Images to predict on alone


def predict_on(root, name="test", *, pixels_max=100):
    return untagged_index(root, name, VOC_CLASSES, key="--list", pixels_max=pixels_max)


@pytest.fixture
def untagged(root):
    """The same images as a test split: no annotation, no mask."""
    for path in [*root.glob("Annotations/*"), root / "SegmentationClass/c.png"]:
        path.unlink()
    (root / "Annotations").rmdir()
    write(root / f"{LISTS}/test.txt", "c\r\na\r\n")
    return root


def test_a_list_needs_no_tags_to_predict_on(untagged):
    index = predict_on(untagged)
    assert index.ids == ["c", "a"] and index.paths == ["JPEGImages/c.jpg", "JPEGImages/a.jpg"]
    assert index.heights.tolist() == [4, 4] and index.widths.tolist() == [6, 6]
    assert index.present.tolist() == [[True] + [False] * 20] * 2


def test_a_bad_list_to_predict_on(untagged):
    write(untagged / "JPEGImages/c.jpg", "<html>")
    write(untagged / f"{LISTS}/test.txt", "c\nnope\na\na\n../x\n")
    reasons = ["'a' is listed twice", "no image id", "'nope' has no image", "c.jpg: a web page"]
    assert_problems(refusals(predict_on, untagged), reasons)
    with pytest.raises(InputError, match="more than 23 pixels"):
        write(untagged / f"{LISTS}/test.txt", "a\n")
        predict_on(untagged, pixels_max=23)


def test_no_list_to_predict_on(untagged, tmp_path):
    with pytest.raises(InputError, match="no such list; set --list to one of those there: test, train, val"):
        predict_on(untagged, "testt")
    with pytest.raises(InputError, match="no such folder; did you mean"):
        predict_on(tmp_path)


BILLION_LAUGHS = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
AT = {"train": f"{LISTS}/train.txt", "val": f"{LISTS}/val.txt", "a": "Annotations/a.xml"}
# name: (file to write, its content or None to remove it, [start of each problem below the root, what else it says])
BAD_TREES = {
    "no such list": (AT["train"], None, [(AT["train"], "no such list; set data.train to one of those there: val")]),
    "empty list": (AT["val"], "\n \n", [(AT["val"], "an empty list")]),
    "list is not text": (AT["val"], b"\xff\xff", [(AT["val"], "not UTF-8")]),
    "no image": (AT["train"], "a\nnope\n", [(f"{AT['train']}:2", "'nope' has no image"), ("Annotations/nope.xml", "")]),
    "ending in the list": (AT["val"], "c.jpg\n", [(f"{AT['val']}:1", "no image"), ("Annotations/c.jpg.xml", "")]),
    "two images": ("JPEGImages/a.png", "", [(f"{AT['train']}:1", "2 images: JPEGImages/a.jpg, JPEGImages/a.png")]),
    "no annotation": (AT["a"], None, [(AT["a"], "no such file; each listed image needs an annotation")]),
    "listed twice": (AT["train"], "a\nb\na\n", [(f"{AT['train']}:3", "'a' is listed twice")]),
    "in both splits": (AT["val"], "c\nb\n", [(f"{AT['val']}:2", "'b' is in both splits")]),
    "paired paths": (AT["val"], "/JPEGImages/c.jpg /S/c.png", [(f"{AT['val']}:1", "without its folder and ending")]),
    "path out of the root": (AT["val"], "../c", [(f"{AT['val']}:1", "no image id")]),
    "backslash": (AT["val"], "..\\c", [(f"{AT['val']}:1", "no image id")]),
    "parent": (AT["val"], "..", [(f"{AT['val']}:1", "no image id")]),
    "hidden": (AT["val"], ".c", [(f"{AT['val']}:1", "no image id")]),
    "NUL": (AT["val"], "c\0c", [(f"{AT['val']}:1", "no image id")]),
    "too long": (AT["val"], "c" * 201, [(f"{AT['val']}:1", "longer than 200 bytes")]),
    "no class": (
        AT["a"],
        annotation("dogg"),
        [(AT["a"], "tag 'dogg' is none of the 20 classes (aeroplane ... tvmonitor); did you mean 'dog'?")],
    ),
    "far from any class": (AT["a"], annotation("xyz"), [(AT["a"], "or list your own classes in classes.txt")]),
    "object without name": (AT["a"], "<annotation><object/></annotation>", [(AT["a"], "object 1 of 1 has no <name>")]),
    "objects in another element": (
        AT["a"],
        "<annotation><objects><object><name>cat</name></object></objects></annotation>",
        [(AT["a"], "found <object> in another place or case")],
    ),
    "objects in capitals": (AT["a"], annotation("cat").replace("object", "Object"), [(AT["a"], "found <Object> in")]),
    "entities in unmarked UTF-16": (AT["a"], BILLION_LAUGHS.encode("utf-16-le"), [(AT["a"], "declares a DOCTYPE")]),
    "malformed XML": (AT["a"], "<annotation><object>", [(AT["a"], "(no element found: line 1")]),
    "empty XML": (AT["a"], "", [(AT["a"], "(no element found")]),
    "unknown encoding": (AT["a"], '<?xml version="1.0" encoding="no"?><annotation/>', [(AT["a"], "(unknown encoding")]),
    "other XML": (
        AT["a"],
        "<html></html>",
        [(AT["a"], "expected <annotation> with <object><name> inside, found <html>")],
    ),
    "bad class list": ("classes.txt", "cat\ncat\n", [("classes.txt", "line 2: 'cat' is already on line 1")]),
}


@pytest.mark.parametrize(("name", "content", "expected"), BAD_TREES.values(), ids=BAD_TREES)
def test_bad_tree(root, name, content, expected):
    (root / name).unlink() if content is None else write(root / name, content)
    problems = problems_of(scan(root))
    assert_problems(problems, [reason for _, reason in expected])
    for problem, (where, _) in zip(problems, expected, strict=True):
        assert problem.startswith(f"{root / where}: ")


def test_ids_that_differ_only_in_case(root):
    write(root / "JPEGImages/A.jpg", (root / "JPEGImages/a.jpg").read_bytes())
    write(root / "Annotations/A.xml", annotation("cat"))
    write(root / AT["train"], "a\nb\nA\n")
    (problem,) = problems_of(scan(root))
    assert "id 'A' differs only in case from 'a'" in problem and f"{AT['train']}:1" in problem


def test_wrong_roots(root, tmp_path):
    (problem,) = scan(tmp_path / "nowhere").problems
    assert problem.startswith(f"{tmp_path / 'nowhere'}: no such folder; expected JPEGImages, Annotations, ImageSets")
    problems = scan(tmp_path).problems
    assert len(problems) == 3 and all(f"did you mean {root}?" in problem for problem in problems)
    (root / AT["train"]).unlink()
    (root / AT["val"]).unlink()
    (root / LISTS).rmdir()
    (problem,) = problems_of(scan(root))
    assert problem.startswith(f"{root / LISTS}: no such folder")


@pytest.mark.skipif(not REAL_VOC.is_dir(), reason="needs real images: set DSRG_REAL_DATA")
def test_real_data():
    """Whatever part of VOC 2012 is there: every listed image is found, and one in fifty is sound."""
    lists = {split: (REAL_VOC / LISTS / f"{name}.txt").read_text().split() for split, name in REAL_LISTS.items()}
    found = scan_voc(REAL_VOC, **REAL_LISTS)
    assert problems_of(found) == []
    assert [(record.split, record.id) for record in found.records] == [
        (split, image_id) for split, ids in lists.items() for image_id in ids
    ]
    some = found.records[::50]
    checked = check_records(replace(found, records=some), pixels_max=500 * 500, on_bad="fail", untagged="background")
    assert checked.index.ids == [record.id for record in some]
    assert len(checked.ground_truth) == sum(record.mask is not None for record in some)


def test_an_image_that_needs_an_extra_is_named(root, monkeypatch):
    """HEIC lies there: what is missing is the extra, not the image."""
    monkeypatch.setattr("dsrg.sources.voc.HOW_TO_READ", {".heic": "run: pip install pillow-heif"})
    image = next(iter(sorted((root / "JPEGImages").iterdir())))
    image.rename(image.with_suffix(".heic")).write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    scan = scan_voc(root, train="train", val=None)
    assert any(record.image.endswith(".heic") for record in scan.records)
