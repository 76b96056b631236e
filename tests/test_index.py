"""Class lists and the index files: what is written comes back, what is malformed is refused line by line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrg.data.classes import VOC_CLASSES, read_classes, write_classes
from dsrg.data.ids import id_fault
from dsrg.data.images import limit_side
from dsrg.data.index import (
    GroundTruth,
    Index,
    present_from_tags,
    read_ground_truth,
    read_index,
    write_ground_truth,
    write_index,
)
from dsrg.errors import InputError
from dsrg.inference.preprocess import read_images
from helpers.data import picture, save_index
from helpers.refusals import assert_problems, refusals

CLASSES = ["cat", "dog, wet", "the cow's"]
SHA = "0123456789abcdef" * 4
HEADER = "id,split,path,width,height,tags,sha256"


def make_index(ids, tags) -> Index:
    return Index(
        ids=list(ids),
        splits=["val" if k % 3 == 2 else "train" for k in range(len(ids))],
        paths=[f"JPEGImages/{image_id}.jpg" for image_id in ids],
        heights=np.arange(1, len(ids) + 1, dtype=np.int32),
        widths=np.arange(101, len(ids) + 101, dtype=np.int32),
        present=present_from_tags(tags, CLASSES),
        checksums=[SHA] * len(ids),
    )


def assert_same(a: Index, b: Index) -> None:
    assert (a.ids, a.splits, a.paths, a.checksums) == (b.ids, b.splits, b.paths, b.checksums)
    for name in ("heights", "widths", "present"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


printable = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=20)


names = printable.filter(lambda text: id_fault(text) is None)


@given(st.dictionaries(names, st.lists(st.sampled_from(CLASSES), unique=True), max_size=8))
def test_index_comes_back(tmp_path_factory, tags):
    path = tmp_path_factory.getbasetemp() / "index.csv"
    index = make_index(tags, tags.values())
    write_index(path, index, CLASSES)
    assert_same(read_index(path, CLASSES), index)


def test_index_file_is_plain(tmp_path):
    write_index(tmp_path / "index.csv", make_index(["a", "b"], [["cat"], []]), CLASSES)
    assert (tmp_path / "index.csv").read_text() == (
        f"{HEADER}\na,train,JPEGImages/a.jpg,101,1,cat,{SHA}\nb,train,JPEGImages/b.jpg,102,2,,{SHA}\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["index.csv"]  # no temporary file stays


def test_larger_images_are_given_smaller(tmp_path):
    own = save_index(tmp_path, {"a": picture(30, 60, seed=0), "b": picture(20, 10, seed=1)}, [[1], [1]])
    write_index(tmp_path / "index.csv", own, ["cat"])
    index = read_index(tmp_path / "index.csv", ["cat"], tmp_path, max_side=20).split("train").pick([1, 0])
    assert [index.image(row).shape for row in (0, 1)] == [(20, 10, 3), (10, 20, 3)]
    assert index.heights.tolist() == [20, 30], "sizes are those of the files"
    assert [image.shape for image in read_images(index)] == [(20, 10, 3), (30, 60, 3)]
    np.testing.assert_array_equal(index.image(1), limit_side(picture(30, 60, seed=0), 20))


def test_split_keeps_order():
    index = make_index("abcdef", [["cat"]] * 6)
    val = index.split("val")
    assert (val.ids, len(val), val.heights.tolist(), val.present.shape) == (["c", "f"], 2, [3, 6], (2, 4))
    assert index.split("train").ids == ["a", "b", "d", "e"]
    assert_same(val.split("val"), val)
    assert val.split("train").present.shape == (0, 4)
    with pytest.raises(ValueError, match="no split 'test'"):
        index.split("test")


GOOD = f"a,train,a.jpg,5,4,cat,{SHA}"
BAD_INDEX = {
    "empty file": ("", ["line 1: expected id,split"]),
    "another header": ("id,path\n", ["line 1: expected id,split,path,width,height,tags,sha256, found 'id,path'"]),
    "cut off": (f"{HEADER}\n{GOOD}\nb,train,b.j", ["line 3: expected 7 columns, found 3"]),
    "no size": (f"{HEADER}\na,train,a.jpg,0,x,cat,{SHA}", ["line 2: width '0'", "line 2: height 'x'"]),
    "tag": (f"{HEADER}\na,train,a.jpg,5,4,cat|cta,{SHA}", ["line 2: tag 'cta' is no class"]),
    "split": (f"{HEADER}\na,test,a.jpg,5,4,cat,{SHA}", ["line 2: split 'test' is none of train, val"]),
    "id": (f"{HEADER}\n../a,train,a.jpg,5,4,cat,{SHA}", ["line 2: '../a' is no image id"]),
    "path": (f"{HEADER}\na,train,../a.jpg,5,4,cat,{SHA}", ["line 2: path '../a.jpg' does not lie under"]),
    "checksum": (f"{HEADER}\na,train,a.jpg,5,4,cat,123", ["line 2: sha256 '123'"]),
    "twice": (f"{HEADER}\n{GOOD}\n{GOOD}\n", ["line 3: id 'a' is already in use"]),
    "open quote": (f'{HEADER}\n{GOOD}\n"b,train', ["line 3: unexpected end of data"]),
    "all at once": (f"{HEADER}\na\n{GOOD}\nb", ["line 2: expected 7", "line 4: expected 7"]),
}


@pytest.mark.parametrize(("text", "reasons"), BAD_INDEX.values(), ids=BAD_INDEX)
def test_malformed_index_names_its_lines(tmp_path, text, reasons):
    path = tmp_path / "index.csv"
    path.write_text(text)
    problems = refusals(read_index, path, CLASSES)
    assert_problems(problems, [f"{path}: {reason}" for reason in reasons])
    assert all(problem.endswith("run the stage `prepare` again") for problem in problems)


def test_missing_index_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="run the stage `prepare` first"):
        read_index(tmp_path / "index.csv", CLASSES)


def test_ground_truth_comes_back(tmp_path):
    path = tmp_path / "ground_truth.csv"
    rows = [GroundTruth("a", "train", "SegmentationClass/a.png", SHA), GroundTruth("b", "val", "b.png", SHA)]
    write_ground_truth(path, rows)
    assert read_ground_truth(path) == {"a": rows[0], "b": rows[1]}
    write_ground_truth(path, [])
    assert read_ground_truth(path) == {}
    path.write_text(f"id,split,mask,sha256\na,train,/etc/a.png,{SHA}\n")
    with pytest.raises(InputError, match="line 2: path '/etc/a.png'"):
        read_ground_truth(path)


def test_classes_come_back(tmp_path):
    path = tmp_path / "classes.txt"
    write_classes(path, CLASSES)
    assert read_classes(path) == CLASSES
    path.write_bytes("\ufeffcat\r\n dog \r\n\r\n\n".encode())  # as Windows editors write it
    assert read_classes(path) == ["cat", "dog"]
    write_classes(path, VOC_CLASSES)
    assert len(read_classes(path)) == 20 and read_classes(path)[14] == "person"


BAD_CLASSES = {
    "empty": (b"", ["line 1: no name"]),
    "blank line": (b"cat\n\ndog\n", ["line 2: no name"]),
    "duplicate": (b"cat\ndog\ncat\n", ["line 3: 'cat' is already on line 1"]),
    "background": (b"Background\ncat\n", ["line 1: background is always class 0"]),
    "bar": (b"cat|dog\n", ["line 1: 'cat|dog' must not hold"]),
    "control character": (b"cat\x00\n", ["line 1: 'cat\\x00' must not hold"]),
    "too many": ("\n".join(f"c{k}" for k in range(255)).encode(), ["255 names"]),
    "not UTF-8": ("vögel".encode("latin-1"), ["byte 1 is not UTF-8"]),
    "all at once": (b"cat\ncat\nbackground", ["line 2: 'cat'", "line 3: background"]),
}


@pytest.mark.parametrize(("content", "reasons"), BAD_CLASSES.values(), ids=BAD_CLASSES)
def test_bad_class_list_names_its_lines(tmp_path, content, reasons):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    assert_problems(refusals(read_classes, path), [f"{path}: {reason}" for reason in reasons])


@pytest.mark.parametrize("names", [[], ["a\nb"], ["cat", "cat"], [" cat"]])
def test_bad_classes_are_not_written(tmp_path, names):
    with pytest.raises(InputError):
        write_classes(tmp_path / "classes.txt", names)
    assert not list(tmp_path.iterdir())
