"""The drawn demo set: laid out as VOC, true to its own tags, the same from the same numbers, and a fair problem."""

from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image

from dsrg.errors import InputError
from dsrg.params import ShapesParams
from dsrg.sources.shapes import CLASSES, Creature, Scene, _draw_creature, draw_dataset
from helpers.project import recipe


def draw(root: Path, **changes: float) -> Path:
    draw_dataset(root, ShapesParams(**recipe()["shapes"] | {"train": 60, "val": 12} | changes))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("demo") / "shapes")


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def ids(root: Path, split: str) -> list[str]:
    return (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().splitlines()


def tags(root: Path, picture_id: str) -> list[str]:
    annotation = ElementTree.parse(root / "Annotations" / f"{picture_id}.xml")
    return [thing.findtext("name") for thing in annotation.findall("object")]


def mask(root: Path, picture_id: str) -> np.ndarray:
    image = Image.open(root / "SegmentationClass" / f"{picture_id}.png")
    assert image.mode == "P" and image.getpalette()[:6] == [0, 0, 0, 128, 0, 0], "in VOC's colors"
    return np.array(image)


def test_holds_exactly_the_files_of_the_layout(root: Path):
    everyone = ids(root, "train") + ids(root, "val")
    assert everyone == [f"train{n:04d}" for n in range(60)] + [f"val{n:04d}" for n in range(12)]
    expected = {"classes.txt", "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"}
    for i in everyone:
        expected |= {f"JPEGImages/{i}.jpg", f"Annotations/{i}.xml", f"SegmentationClass/{i}.png"}
    assert set(contents(root)) == expected
    assert (root / "classes.txt").read_text() == "".join(f"{name}\n" for name in CLASSES)
    assert [path.name for path in root.parent.iterdir()] == ["shapes"]


def test_tags_and_masks_agree_and_a_tagged_class_is_in_sight(root: Path):
    for i in ids(root, "train") + ids(root, "val"):
        labels, pixels = np.unique(mask(root, i), return_counts=True)
        assert {CLASSES[k - 1] for k in labels if k} == set(tags(root, i))
        assert pixels.min() >= 60


def test_one_to_three_objects_and_every_class_in_both_splits(root: Path):
    for split in ("train", "val"):
        names = [tags(root, i) for i in ids(root, split)]
        assert {len(objects) for objects in names} == {1, 2, 3}
        assert {name for objects in names for name in objects} == set(CLASSES)
    counts = [sum(name in tags(root, i) for i in ids(root, "train")) for name in CLASSES]
    assert max(counts) <= 2 * min(counts)
    assert any(len(set(objects)) < len(objects) for objects in (tags(root, i) for i in ids(root, "train")))


def test_objects_cover_a_fair_share_of_the_pictures(root: Path):
    shares = np.array([(mask(root, i) > 0).mean() for i in ids(root, "train")])
    assert 0.2 <= shares.mean() <= 0.4
    assert shares.min() >= 0.1 and shares.max() <= 0.65


def test_the_same_numbers_draw_the_same_bytes_and_another_seed_others(root: Path, tmp_path: Path):
    small = dict(train=3, val=2)
    first, again, other = (contents(draw(tmp_path / n, **small, seed=s)) for n, s in (("a", 7), ("b", 7), ("c", 8)))
    assert first == again
    pictures = [name for name in first if name.endswith((".jpg", ".png"))]
    assert pictures and all(first[name] != other[name] for name in pictures)


def test_a_larger_set_begins_with_the_smaller(root: Path, tmp_path: Path):
    large, small = contents(root), contents(draw(tmp_path / "small", train=9, val=4))
    for name, file in small.items():
        assert large[name].startswith(file) if name.startswith("ImageSets") else large[name] == file


def test_only_head_and_hue_know_the_class():
    """The same draw of numbers gives all classes the same body but for its hue, which strays as far as it is let."""

    def body(class_id: int, coat_spread: float, seed: int = 3) -> np.ndarray:
        rng = np.random.default_rng(seed)
        creature = _draw_creature(rng, class_id, length=80, hue_spread=0, coat_spread=coat_spread)
        inside = (creature.alpha == 255) & ~creature.head
        colors = cv2.cvtColor(creature.rgb.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[inside]
        return np.median(colors, axis=0)  # hue in degrees, saturation and value in 0..1

    classes = range(1, len(CLASSES) + 1)
    bodies = np.array([body(k, 40) for k in classes])
    assert np.ptp(bodies[:, 1:], axis=0).max() <= 0.05

    def straying(coat_spread: float) -> np.ndarray:
        own = np.array([(k - 1) * 360 / len(CLASSES) for k in classes for _ in range(20)])
        hues = np.array([body(k, coat_spread, seed)[0] for k in classes for seed in range(20)])
        return np.abs((hues - own + 180) % 360 - 180)

    assert straying(0).max() < 8 and 30 < straying(40).max() < 48 and straying(180).max() > 150


def test_a_creature_in_front_must_leave_heads_in_sight():
    body, head = np.full((8, 8), 255, np.uint8), np.zeros((8, 8), bool)
    head[:, 4:] = True
    creature = Creature(np.full((8, 8, 3), 200, np.uint8), body, head)
    behind = Scene(np.zeros((8, 24, 3), np.uint8), np.zeros((8, 24), np.uint8), np.zeros((8, 24), bool), ())
    behind = behind.add(creature, 4, 0)
    assert behind.add(creature, 10, 0) is None  # it hides half the head
    assert behind.add(creature, 0, 0) is None  # the head is seen, but half of the whole is too little
    both = behind.add(creature, -1, 0)
    assert both is not None and both.owner[0].tolist() == 7 * [2] + 5 * [1] + 12 * [0]
    assert both.heads[0].tolist() == 3 * [False] + 4 * [True] + [False] + 4 * [True] + 12 * [False]


@pytest.mark.parametrize(
    "changes", [dict(size_min=64, size_max=64), dict(clutter_max=0), dict(objects_max=1), dict(objects_max=5)], ids=str
)
def test_the_ends_of_the_ranges_give_tagged_pictures(tmp_path: Path, changes: dict[str, int]):
    root = draw(tmp_path / "shapes", train=6, val=1, **changes)
    for i in ids(root, "train"):
        assert 1 <= len(tags(root, i)) <= changes.get("objects_max", 3)
        assert {CLASSES[k - 1] for k in np.unique(mask(root, i)) if k} == set(tags(root, i))


def test_an_older_set_is_replaced_but_no_folder_of_other_things(tmp_path: Path):
    root = draw(tmp_path / "shapes", train=3, val=1)
    draw(root, train=2, val=1)
    assert ids(root, "train") == ["train0000", "train0001"] and not (root / "JPEGImages" / "train0002.jpg").exists()

    for name, classes in (("mine", None), ("ours", "cat\ndog\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.jpg").write_bytes(b"precious")
        if classes:
            (tmp_path / name / "classes.txt").write_text(classes)
        with pytest.raises(InputError, match=name):
            draw(tmp_path / name)
        assert (tmp_path / name / "photo.jpg").read_bytes() == b"precious"
