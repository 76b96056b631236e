"""The strict look at every file: sizes, label values, checksums; all problems at once, warnings for the rest."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from dsrg.data import images
from dsrg.data.images import read_mask
from dsrg.data.index import read_index, write_index
from dsrg.data.palette import voc_palette
from dsrg.errors import InputError
from dsrg.runtime import progress
from dsrg.sources.validation import ImageProblem, Record, Scan, check_records, tag_faults
from helpers.refusals import refusals

RULES = {"pixels_max": 100, "on_bad": "fail", "untagged": "background"}
CLASSES = ["cat", "dog"]
H, W = 4, 6


def save_image(root, name, *, value=0, shape=(H, W), **options) -> None:
    Image.fromarray(np.full((*shape, 3), value, np.uint8)).save(root / name, **options)


def save_mask(root, name, *labels, shape=(H, W)) -> None:
    image = Image.fromarray(np.resize(np.array(labels, np.uint8), shape), "P")
    image.putpalette(voc_palette().tobytes())
    image.save(root / name)


def make_scan(root, *records, problems=(), faults=()) -> Scan:
    return Scan(root, CLASSES, list(records), list(problems), list(faults))


def problems_of(scan, **options) -> list[str]:
    return refusals(check_records, scan, **RULES | options)


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
    index, ground_truth, warnings, skipped = check_records(make_scan(root, C, A, B), **RULES | {"pixels_max": H * W})
    assert (index.ids, index.splits) == (["c", "a", "b"], ["train", "train", "val"])
    assert index.paths == ["c.jpg", "a.jpg", "b.jpg"]
    assert (index.heights.tolist(), index.widths.tolist()) == ([H] * 3, [W] * 3)
    assert index.present.tolist() == [[True, True, False], [True, False, True], [True, True, True]]
    assert index.checksums[0] == hashlib.sha256((root / "c.jpg").read_bytes()).hexdigest()
    assert [(row.id, row.split, row.mask) for row in ground_truth] == [("a", "train", "a.png"), ("b", "val", "b.png")]
    assert ground_truth[0].checksum == hashlib.sha256((root / "a.png").read_bytes()).hexdigest()
    assert warnings == ["2 classes have fewer than 5 training images: cat (1), dog (1)"] and skipped == []
    write_index(root / "index.csv", index, CLASSES)
    assert read_index(root / "index.csv", CLASSES).ids == index.ids


def test_all_offenders_come_at_once_and_grouped(root):
    (root / "a.jpg").write_bytes(b"")
    (root / "b.jpg").unlink()
    save_mask(root, "a.png", 7)
    save_mask(root, "b.png", 8, shape=(3, 3))  # its size has nothing to be compared with
    faults = [ImageProblem("a", "tags.csv:3: no class")]
    problems = problems_of(make_scan(root, A, B, B, C, problems=["list.txt:1: twice"], faults=faults))
    # the scan's, then images, then masks; none twice
    names = ["list.txt", "tags.csv", "a.jpg", "b.jpg", "a.png", "b.png"]
    assert [next(name for name in names if name in problem) for problem in problems] == names


def test_warnings_count_and_quote(root):
    for k in range(6):
        save_image(root, f"c{k}.jpg", value=100 + k)
    (root / "d.jpg").write_bytes((root / "a.jpg").read_bytes())
    records = [A._replace(tags=()), B, Record("d", "val", "d.jpg", ("dog",), None)]
    records += [Record(f"c{k}", "train", f"c{k}.jpg", (), None) for k in range(6)]
    assert check_records(make_scan(root, *records), **RULES).warnings == [
        "2 classes have no training image, so cannot be learned: cat, dog",
        "7 training images have no tag, so teach background only: a, c0, c1, c2, c3 and 2 more",
        "1 val images have no mask, so are not evaluated: d",
        "1 val images are byte for byte training images, which flatters the evaluation: d",
        "1 images are byte for byte copies of others, but have other tags: d = a",
        "1 images have a class in their mask that is not among their tags: a",
    ]


def test_copies_and_rare_classes_are_said(root):
    for k in range(4):
        (root / f"d{k}.jpg").write_bytes((root / "a.jpg").read_bytes())
    records = [A, C, *(Record(f"d{k}", "train", f"d{k}.jpg", ("dog",), None) for k in range(4))]
    assert check_records(make_scan(root, *records), **RULES).warnings == [
        "1 classes have fewer than 5 training images: cat (1)",
        "4 images are byte for byte copies of others in their split: d0 = a, d1 = a, d2 = a, d3 = a",
    ]


def test_classes_that_tags_cannot_teach_are_said(root):
    """One on every training image, two that never occur apart; one that occurs alone as well is no matter."""
    for name in "defgh":
        save_image(root, f"{name}.jpg", value=ord(name))
    tags = {"d": "dog", "e": "cat cow dog", "f": "cat cow dog", "g": "dog emu", "h": "dog emu fox"}
    records = [Record(name, "train", f"{name}.jpg", tuple(tags[name].split()), None) for name in tags]
    scan = Scan(root, ["cat", "cow", "dog", "emu", "fox"], records, [])
    assert check_records(scan, **RULES).warnings[1:] == [
        "1 classes are on every training image, so cannot be learned: that needs images without them: dog",
        "1 groups of classes never occur apart, so nothing says which of them is which: cat = cow",
    ]


def test_a_rare_class_may_be_another_misspelt(root):
    for name in "defgh":
        save_image(root, f"{name}.jpg", value=ord(name))
    records = [Record(n, "train", f"{n}.jpg", ("dog",), None) for n in "defgh"]
    records.append(A._replace(tags=("dgo", "emu"), mask=None))
    scan = Scan(root, ["dgo", "dog", "emu"], records, [])
    assert check_records(scan, **RULES).warnings[0] == (
        "2 classes have fewer than 5 training images: dgo (1; or is it 'dog' misspelt?), emu (1)"
    )


def test_warnings_of_the_source_come_first(root):
    scan = Scan(root, CLASSES, [C], [], [], ["3 rows are not used"])
    assert check_records(scan, **RULES).warnings[0] == "3 rows are not used"


def test_bad_images_can_be_left_out(root):
    (root / "masks").mkdir()
    save_image(root, "d.jpg", shape=(11, 10))
    save_mask(root, "b.png", 7)
    drawn = Record("f", "val", "a.jpg", ("dog",), lambda height, width: np.full((height, width), 2, np.uint8))
    large, untagged = Record("d", "train", "d.jpg", ("cat",), None), Record("e", "train", "c.jpg", (), "a.png")
    faults = [ImageProblem("t.csv:9", "t.csv:9: no image"), ImageProblem("c", "t.csv:3: no class")]
    scan = make_scan(root, A, B, C._replace(mask="a.png"), large, untagged, drawn, faults=faults)
    checked = check_records(scan, **RULES | {"on_bad": "skip", "untagged": "bad"}, masks_to=root / "masks")
    assert checked.index.ids == ["a", "f"]
    assert [row.id for row in checked.ground_truth] == ["a", "f"]
    assert sorted(path.name for path in (root / "masks").iterdir()) == ["a.png", "f.png"]
    expected = [("t.csv:9", "no image"), ("c", "no class"), ("e", "no tag"), ("d", "pixels (data"), ("b", "holds 7")]
    assert [fault.id for fault in checked.skipped] == [name for name, _ in expected]
    assert all(why in fault.problem for (_, why), fault in zip(expected, checked.skipped, strict=True))
    assert problems_of(scan, untagged="bad") == [fault.problem for fault in checked.skipped]


def test_nothing_left_is_an_error(root):
    (root / "c.jpg").write_bytes(b"")
    *_, problem = problems_of(make_scan(root, B, C), on_bad="skip")
    assert problem == "no training image is left of 1; fix some (data.on_bad: skip)"
    assert problems_of(make_scan(root, C), on_bad="skip")[-1].startswith("no image is left of 1")
    assert problems_of(make_scan(root, B, C, problems=["a bad list"]), on_bad="skip")[0] == "a bad list"


def test_untagged_images_are_background_or_bad(root):
    scan = make_scan(root, A, C._replace(tags=()))
    assert check_records(scan, **RULES).index.present.tolist() == [[True, False, True], [True, False, False]]
    assert problems_of(scan, untagged="bad") == [
        "c.jpg: has no tag; tag it, or set data.untagged: background if none of the classes is on it"
    ]


def test_masks_are_kept_in_one_place(root, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    image = Image.fromarray(np.array([[0, 1], [255, 2]], np.uint8).repeat(2, 0).repeat(3, 1))  # gray, no palette
    image.save(root / "b.png")
    drawn = np.arange(H * W, dtype=np.uint8).reshape(H, W) % 3
    c = C._replace(mask=lambda height, width: drawn)
    index, ground_truth, _, _ = check_records(make_scan(root, A, B, c), **RULES, masks_to=masks)
    assert [row.mask for row in ground_truth] == ["a.png", "b.png", "c.png"]
    for row, expected in zip(ground_truth, [root / "a.png", root / "b.png", None], strict=True):
        kept = Image.open(masks / row.mask)
        assert kept.mode == "P" and kept.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
        np.testing.assert_array_equal(kept, drawn if expected is None else read_mask(expected))
        assert row.checksum == hashlib.sha256((masks / row.mask).read_bytes()).hexdigest()


def test_a_drawn_mask_may_refuse(root):
    def refuse(height: int, width: int) -> np.ndarray:
        raise InputError(f"x.json: image 3: not for {height} x {width}")

    records = [A, C._replace(mask=refuse), Record("d", "val", "none.jpg", (), refuse)]
    problems = problems_of(make_scan(root, *records))
    assert [problem.split(": ")[0] for problem in problems] == [f"{root}/none.jpg", "x.json"]
    assert problems[1].endswith("not for 4 x 6")


@pytest.mark.parametrize(
    ("tag", "hint"),
    [
        ("dogg", "did you mean 'dog'?"),
        ("DOG", "did you mean 'dog'?"),
        ("2", "tags are names of classes, not their numbers"),
        ("9" * 5000, "fix it, or list your own classes in classes.txt"),  # more digits than int() takes
        ("zebra", "fix it, or list your own classes in classes.txt"),
    ],
)
def test_a_tag_that_is_no_class_comes_with_a_hint(tag, hint):
    (fault,) = tag_faults([("a", "t.csv:3", ["dog", tag, tag]), ("b", "t.csv:4", ["cat"])], CLASSES)
    assert fault == ImageProblem("a", f"t.csv:3: tag {tag!r} is none of the 2 classes (cat ... dog); {hint}")


def test_progress_counts_every_file(root, capsys, monkeypatch):
    monkeypatch.setenv("DSRG_PROGRESS_SECONDS", "0")
    check_records(make_scan(root, A, B, C), **RULES)
    lines = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [f"checking images: {done}/3" for done in (1, 2, 3)]


def test_progress_of_long_work_is_told_now_and_then(capsys, monkeypatch):
    """Ten items of five seconds each, the last of them of one; then the same at once."""
    clock = iter([0, *range(5, 50, 5), 46, *[0] * 11])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    for name in ("long", "short"):
        assert list(progress.tracked(range(10), name, 10)) == list(range(10))
    lines = ["long: 2/10, 10 s", "long: 4/10, 20 s", "long: 6/10, 30 s", "long: 8/10, 40 s", "long: 10/10, 46 s"]
    assert capsys.readouterr().err.splitlines() == lines


def test_masks_are_compared_with_tags(root):
    """One image whose tags and mask share nothing, a class in no mask."""
    save_mask(root, "a.png", 0, 1)
    records = [A._replace(tags=("cat",)), B._replace(tags=("dog",))]
    save_mask(root, "b.png", 0, 1)
    warnings = check_records(make_scan(root, *records), **RULES).warnings
    assert warnings[-3:] == [
        "1 classes are tagged on images with masks, but occur in none of the masks: dog",
        "1 images have a mask that holds none of their tags: b",
        "1 images have a class in their mask that is not among their tags: b",
    ]


def test_an_evaluation_of_background_alone_is_refused(root):
    save_mask(root, "b.png", 0, 255)
    (problem,) = problems_of(make_scan(root, A, B))
    assert problem.startswith(f"{root}: no mask of the 1 images to evaluate on holds a class: the masks hold 0 and 255")


def test_shifted_masks_are_refused(root):
    records = []
    for number in range(4):
        save_image(root, f"s{number}.jpg", value=number)
        save_mask(root, f"s{number}.png", 0, 1)
        split = "val" if number > 1 else "train"
        records.append(Record(f"s{number}", split, f"s{number}.jpg", ("dog",), f"s{number}.png"))
    (problem,) = problems_of(make_scan(root, *records))
    assert "the masks do not fit the tags" in problem and "if 1 is added to the masks' values" in problem


def test_every_file_is_opened_once(root, monkeypatch):
    opened = []
    real = open

    def counted(path, *arguments, **options):
        opened.append(str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(images, "open", counted, raising=False)
    check_records(make_scan(root, A, B), **RULES)
    assert len(opened) == len(set(opened)) == 4
