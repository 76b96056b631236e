"""The strict look at every file: sizes, label values, checksums; all problems at once, warnings for the rest."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from dsrg.data.check import Record, Scan, check_records
from dsrg.data.index import read_index, write_index
from dsrg.data.palette import voc_palette
from dsrg.errors import InputError

CLASSES = ["cat", "dog"]
H, W = 4, 6


def save_image(root, name, *, value=0, shape=(H, W), **options) -> None:
    Image.fromarray(np.full((*shape, 3), value, np.uint8)).save(root / name, **options)


def save_mask(root, name, *labels, shape=(H, W)) -> None:
    image = Image.fromarray(np.resize(np.array(labels, np.uint8), shape), "P")
    image.putpalette(voc_palette().tobytes())
    image.save(root / name)


def make_scan(root, *records, problems=()) -> Scan:
    return Scan(root, CLASSES, list(records), list(problems))


def problems_of(scan) -> list[str]:
    with pytest.raises(InputError) as error:
        check_records(scan, pixels_max=100)
    assert not any("\n" in problem for problem in error.value.problems)
    return error.value.problems


A = Record("a", "train", "a.jpg", ("dog",), "a.png")
B = Record("b", "val", "b.jpg", ("dog", "cat"), "b.png")
C = Record("c", "train", "c.jpg", ("cat",), None)


@pytest.fixture
def root(tmp_path):
    for value, name in enumerate(["a.jpg", "b.jpg", "c.jpg"]):
        save_image(tmp_path, name, value=20 * value)
    save_mask(tmp_path, "a.png", 0, 2, 255)
    save_mask(tmp_path, "b.png", 0, 1, 2)
    return tmp_path


def test_sound_records_become_an_index(root):
    index, ground_truth, warnings = check_records(make_scan(root, C, A, B), pixels_max=H * W)
    assert (index.ids, index.splits, index.paths) == (
        ["c", "a", "b"],
        ["train", "train", "val"],
        ["c.jpg", "a.jpg", "b.jpg"],
    )
    assert (index.heights.tolist(), index.widths.tolist()) == ([H] * 3, [W] * 3)
    assert index.present.tolist() == [[True, True, False], [True, False, True], [True, True, True]]
    assert index.checksums[0] == hashlib.sha256((root / "c.jpg").read_bytes()).hexdigest()
    assert [(row.id, row.split, row.mask) for row in ground_truth] == [("a", "train", "a.png"), ("b", "val", "b.png")]
    assert ground_truth[0].checksum == hashlib.sha256((root / "a.png").read_bytes()).hexdigest()
    assert warnings == []
    write_index(root / "index.csv", index, CLASSES)
    assert read_index(root / "index.csv", CLASSES).ids == index.ids


def test_size_is_that_of_the_turned_image(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(root, "a.jpg", exif=exif)
    (problem,) = problems_of(make_scan(root, A, C))
    assert problem.startswith(f"{root / 'a.png'}: 6 x 4 pixels, but its image has 4 x 6 (as turned by its EXIF")
    save_mask(root, "a.png", 0, 2, shape=(W, H))
    index = check_records(make_scan(root, A, C), pixels_max=100).index
    assert (index.heights[0], index.widths[0]) == (W, H)


BAD_FILES = {
    "mask of another size": (lambda root: save_mask(root, "a.png", 0, 2, shape=(4, 4)), "a.png: 4 x 4 pixels, but"),
    "mask value beyond the classes": (
        lambda root: save_mask(root, "a.png", 0, 3, 254, 255),
        "a.png: holds 3, 254; expected 0 (background), 1 to 2 (cat ... dog) or 255 (unlabelled)",
    ),
    "RGB mask": (lambda root: save_image(root, "a.png"), "a.png: 8-bit RGB PNG"),
    "missing mask": (lambda root: (root / "a.png").unlink(), "a.png: No such file"),
    "truncated image": (
        lambda root: (root / "a.jpg").write_bytes((root / "a.jpg").read_bytes()[:-6]),
        "a.jpg: broken image (image file is truncated",
    ),
    "unreadable image": (lambda root: (root / "a.jpg").write_bytes(b"<html>"), "a.jpg: a web page"),
    "missing image": (lambda root: (root / "a.jpg").unlink(), "a.jpg: No such file"),
    "large image": (lambda root: save_image(root, "a.jpg", shape=(11, 10)), "a.jpg: more than 100 pixels"),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(root, spoil, reason):
    spoil(root)
    (problem,) = problems_of(make_scan(root, A, B, C))
    assert problem.startswith(f"{root}/{reason}")


def test_all_offenders_come_at_once_and_grouped(root):
    (root / "a.jpg").write_bytes(b"")
    (root / "b.jpg").unlink()
    save_mask(root, "a.png", 7)
    save_mask(root, "b.png", 8, shape=(3, 3))  # its size has nothing to be compared with
    problems = problems_of(make_scan(root, A, B, B, C, problems=["tags.csv:3: a tag is no class"]))
    names = ["tags.csv", "a.jpg", "b.jpg", "a.png", "b.png"]  # the scan's, then images, then masks; none twice
    assert [next(name for name in names if name in problem) for problem in problems] == names


def test_a_scan_with_problems_never_becomes_an_index(root):
    assert problems_of(make_scan(root, problems=["no such folder"])) == ["no such folder"]
    assert problems_of(make_scan(root, C, problems=["no annotation"])) == ["no annotation"]


def test_warnings_count_and_quote(root):
    (root / "d.jpg").write_bytes((root / "a.jpg").read_bytes())
    records = [
        A._replace(tags=()),
        B,
        Record("d", "val", "d.jpg", ("dog",), None),
        *(Record(f"c{k}", "train", "c.jpg", (), None) for k in range(6)),
    ]
    assert check_records(make_scan(root, *records), pixels_max=100).warnings == [
        "2 classes have no training image, so cannot be learned: cat, dog",
        "7 training images have no tag, so teach background only: a, c0, c1, c2, c3, ...",
        "1 images have a class in their mask that is not among their tags: a",
        "1 val images have no mask, so are not evaluated: d",
        "1 val images are byte for byte training images, which flatters the evaluation: d",
    ]


def test_progress_counts_every_file(root):
    calls = []
    check_records(make_scan(root, A, B, C), pixels_max=100, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 5) for k in range(1, 6)]
