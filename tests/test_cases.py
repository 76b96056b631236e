"""Folders as people have them (tests/cases): each is read as it was meant, or refused with the reason, never half."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from dsrg.data.images import read_mask
from dsrg.data.index import Index
from dsrg.files import read_yaml
from dsrg.networks import weights as weights_module
from dsrg.sources.scan import read_source
from helpers import ROOT
from helpers.command import outcome, run_dsrg
from helpers.data import read_csv
from helpers.networks import save_network

CASES = ROOT / "tests" / "cases"
TAGS = dict(enumerate("dog,cat,sofa,dog|sofa,cat|sofa,,dog|cat,dog,cat,sofa,dog,cat".split(",")))  # of most cases
ONE_DOG = {number: "dog" if number in (0, 3, 6, 7, 10) else "" for number in range(12)}


class Case(NamedTuple):
    """What `dsrg init pictures` and then `dsrg check` have to make of a folder."""

    says: tuple[str, ...]  # words of the answer that decide
    tags: dict[int, str] | None = None  # by the picture's number; None: the folder is refused
    val: set[int] | None = None  # pictures of the evaluation split, unless drawn
    masks: Callable[[Path, int], np.ndarray] | None = None
    classes: tuple[str, ...] = ("cat", "dog", "sofa")
    number: Callable[[str], int] = lambda path: int(re.findall(r"\d+", re.sub(r"_jpg\.rf.*", "", Path(path).name))[-1])


def reads(*says: str, tags: dict[int, str] = TAGS, **details: object) -> Case:
    return Case(says, tags, **details)


def refuses(*says: str) -> Case:
    return Case(says)


def without(*numbers: int) -> dict[int, str]:
    return {number: tags for number, tags in TAGS.items() if number not in numbers}


def file(pattern: str) -> Callable[[Path, int], np.ndarray]:
    """Masks that are files: their values as they are."""
    return lambda folder, number: np.array(Image.open(folder / pattern.format(number)))


def hexadecimal(path: str) -> int:
    """The number of a picture of Open Images."""
    return int(Path(path).stem, 16) // 7919


def boxes(folder: Path, number: int) -> np.ndarray:
    """Masks of the COCO cases, whose polygons are boxes."""
    (path,) = (path for path in folder.rglob("*.json") if path.parent.name not in ("valid", "test"))
    content = json.loads(path.read_text())
    (image,) = (image for image in content["images"] if f"p{number}" == re.match(r"p\d+", _name(image))[0])
    names = {category["id"]: category["name"] for category in content["categories"]}
    labels = np.zeros((image["height"], image["width"]), np.uint8)
    for annotation in content["annotations"]:
        if annotation["image_id"] == image["id"]:
            x, y, width, height = annotation["bbox"]
            here = labels[y : y + height, x : x + width]
            value = 1 + ["cat", "dog", "sofa"].index(names[annotation["category_id"]])
            here[...] = np.where((here == 0) | (here == value), value, 255)
    return labels


def _name(image: dict) -> str:
    return image["file_name"].replace("\\", "/").rpartition("/")[2]


EXPECTED = {
    "all-tags-everywhere": reads(
        "dog, sofa",
        "every training image",
        tags=dict.fromkeys(range(12), "dog|sofa"),
        classes=("dog", "sofa"),
    ),
    "background-tag": refuses("tags.csv:7", "leave the cell empty"),
    "class-folders": refuses("no tags", "folders hold the images", "cat, dog, nothing, sofa"),
    "classes-labelme": refuses("__ignore__", "_background_"),
    "classes-void-last": reads("void", masks=file("masks/a{}.png"), classes=("cat", "dog", "sofa", "void")),
    "coco-background-category": reads("_background_", masks=boxes),
    "coco-background-category2": reads("background", masks=boxes),
    "coco-backslash": reads("result.json", masks=boxes),
    "coco-dup-category": refuses("category 9", "'dog' is already"),
    "coco-float-ids": refuses("id: expected a whole number"),
    "coco-no-annotations": refuses("no tag"),
    "coco-odd-names": refuses("'cat '", "'dog|wolf'"),
    "coco-roboflow-root": reads(
        "pets-and-sofas",
        masks=lambda folder, number: np.where(
            boxes(folder, number) % 255, boxes(folder, number) + 1, boxes(folder, number)
        ),
        classes=("pets-and-sofas", "cat", "dog", "sofa"),
    ),
    "coco-roboflow-splits": reads(
        "'valid/_annotations.coco.json' to evaluate on",
        "not used: test/_annotations.coco.json",
        val={100, 101, 102, 103, 104},
    ),
    "coco-string-ids": refuses("id: expected a whole number"),
    "coco-zero-based": reads(masks=boxes),
    "cvat-pascalvoc": refuses("ImageSets/Segmentation"),
    "cvat-segmask": refuses("Annotations"),
    "cvat-segmask-palette": refuses("Annotations"),
    "excel-numbers": refuses("tags.csv:2", "no image '1'", "did you mean '0001.jpg'? Spreadsheets drop zeros"),
    "excel-sep-line": reads("tags.csv"),
    "excel-utf16": reads("tags.csv"),
    "header-quoted": refuses("tags.csv"),
    "image-forms": refuses("no tags"),
    "jfif-heic-rows": refuses("photo7.HEIC", "photo11.HEIC", "pillow-heif"),
    "jsonl-odd": reads("not used: extra"),
    "kaggle-planet": reads("train_v2.csv", "tags separated by ' '"),
    "kaggle-planet-renamed": reads("tags separated by ' '"),
    "labelme-raw": refuses("no tags", "12 .json files are not used", "labelme"),
    "labelme-voc": refuses("Annotations"),
    "labelme-voc-table": reads("tags.csv", "SegmentationClassPNG", "class_names.txt"),
    "labelstudio-csv": reads("12 images are named by a path or address elsewhere", "annotator"),
    "labelstudio-csv-renamed": reads("12 images are named by a path or address elsewhere", "annotator"),
    "labelstudio-jsonmin": reads("project-1.json", tags=without(5)),
    "labelstudio-localfiles": reads("12 images are named by a path or address elsewhere"),
    "large-turned": reads(
        tags={100: "dog", 0: "cat", 1: "dog", 2: "cat", 3: "dog", 4: "cat"},
        classes=("cat", "dog"),
        number=lambda path: 100 if "tower" in path else int(re.findall(r"\d+", path)[-1]),
        masks=lambda folder, number: file("masks/tower.png")(folder, number) if number == 100 else None,
    ),
    "long-table-renamed": reads(
        "0000000000009aab.jpg", "15 rows with a tag each are joined to 11 images", tags=without(5), number=hexadecimal
    ),
    "mask-suffix": reads("p0_mask.png"),
    "masks-0-255": refuses("255"),
    "masks-capital": reads("Masks/p0.png"),
    "masks-jpg-png": reads("masks/a0.jpg.png"),
    "no-header": refuses("tags.csv", "img_000.jpg"),
    "numbers-as-tags": reads(
        tags={
            number: tags.replace("dog", "0").replace("cat", "1").replace("sofa", "2") for number, tags in TAGS.items()
        },
        classes=("0", "1", "2"),
    ),
    "one-class-all-positive": reads(
        "every training image",
        tags=dict.fromkeys(range(12), "dog"),
        classes=("dog",),
    ),
    "onehot-columns": reads("columns of 0 and 1 are the classes"),
    "openimages-long": reads(
        "0000000000009aab.jpg",
        "15 rows",
        tags={number: tags and "/m/" + tags.replace("|", "|/m/") for number, tags in without(5).items()},
        number=hexadecimal,
        classes=("/m/cat", "/m/dog", "/m/sofa"),
    ),
    "pandas-list": reads(),
    "pandas-nan": refuses("tags.csv:7", "NaN", "leave the cell empty"),
    "ragged-tags": refuses("tags.csv:5", "3 cells under 2 columns"),
    "roboflow-multilabel": refuses("no tags", "train/_classes.csv"),
    "roboflow-semantic": refuses("no tags", "train/_classes.csv"),
    "roboflow-voc": refuses("no tags", "12 .xml files are not used"),
    "sep-ideographic": reads("tags separated by '、'"),
    "sep-mixed": refuses("tags.csv:6", "'cat;sofa'"),
    "sep-slash": reads("tags separated by '/'"),
    "split-caps": reads("'Train' to train on, 'Valid' to evaluate on", val={2, 5, 8, 11}),
    "split-is-valid": reads("is_valid", "tags separated by ' '", val={0, 3, 6, 9}),
    "split-partly": reads("rows without one (4)", tags=without(1, 4, 7, 10), val={2, 5, 8, 11}),
    "tag-case": refuses("differs only in case"),
    "twelve-bits-in-sixteen": reads("black"),
    "two-tables": reads("tables are not used", "val.csv", tags=without(0, 3, 6, 9)),
    "voc-list-endings": refuses("frame_000000.jpg", "no image"),
    "voc-main-list": refuses("frame_000000  -1"),
    "voc-own-classes-no-file": reads("aeroplane", classes=()),
    "voc-pair-list": refuses("SegmentationClassAug", "no image id"),
    "xml-bom-ns": reads(),
    "xml-case": refuses("did you mean 'dog'?"),
    "xml-wrapped": refuses("<annotation>"),
    "yolo": refuses("no tags", "12 .txt files are not used", "YOLO"),
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose ImageNet weights are there; `pictures` comes with the case."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data/points.csv", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights_module, "read_weights", lambda weights, *, name: {})
    return tmp_path


def initialized() -> tuple[int, str]:
    """Of both commands: the last exit code, everything said."""
    code, said = outcome("init", "pictures")
    if code == 0:
        code, more = outcome("check")
        said += more
    return code, said


def prepared(masks: Path) -> tuple[Index, dict[str, np.ndarray], list[str]]:
    """What training gets: index, masks by id, classes."""
    data = read_yaml("params.yaml")["data"]
    others = ("root", "size", "max_side", "points", "points_tags")
    settings = {key: value for key, value in data.items() if key not in others}
    masks.mkdir()
    classes, checked = read_source(Path(data["root"]), masks_to=masks, **settings)
    return checked.index, {truth.id: read_mask(masks / truth.mask) for truth in checked.ground_truth}, classes


def test_every_case_has_its_outcome():
    assert {*EXPECTED, "unsupported-formats"} == {path.name for path in CASES.iterdir()}


@pytest.mark.parametrize("name", EXPECTED)
def test_case(name, project):
    case = EXPECTED[name]
    shutil.copytree(CASES / name / "pictures", "pictures")
    code, said = initialized()
    assert code == (2 if case.tags is None else 0), said
    for words in case.says:
        assert words in said, said
    if case.tags is None:
        assert "fine" not in said, said
        return
    index, masks, classes = prepared(project / "masks")
    number = dict(zip(index.ids, (_numbered(case, path) for path in index.paths), strict=True))
    assert tuple(classes) == case.classes or not case.classes
    found = {
        number[i]: {classes[k - 1] for k in np.flatnonzero(row[1:]) + 1}
        for i, row in zip(index.ids, index.present, strict=True)
    }
    assert {k: tags for k, tags in found.items() if k < 100 or k in case.tags} == {
        k: {*filter(None, tags.split("|"))} for k, tags in case.tags.items()
    }
    if case.val is not None:
        assert {number[i] for i, split in zip(index.ids, index.splits, strict=True) if split == "val"} == case.val
    for image_id, labels in masks.items() if case.masks else ():
        np.testing.assert_array_equal(labels, case.masks(Path("pictures"), number[image_id]))
    assert bool(masks) or not case.masks


def _numbered(case: Case, path: str) -> int:
    """Pictures of an evaluation folder (v0.jpg) count from 100."""
    return case.number(path) + 100 * Path(path).name.startswith("v")


def test_pictures_of_other_formats_are_predicted_or_named(project):
    shutil.copytree(CASES / "unsupported-formats/pictures", "pictures")
    save_network(project / "data/retrain.safetensors", ["cat", "dog"])
    _, said = outcome("predict", "pictures", "--out", "o")
    predicted = {row["image"] for row in read_csv("o/images.csv")}
    for path in Path("pictures").iterdir():
        assert any(path.name in name for name in (*predicted, said)), said
    assert {"plain.png", "jfif.jfif", "x.jpe", "bmp.bmp", "gif.gif"} <= {Path(name).name for name in predicted}


def test_where_nothing_is_left_to_predict_each_kind_is_named_and_counted(project):
    (project / "pictures").mkdir()
    for name in ("a.HEIC", "b.heic", "c.svg", "notes"):
        (project / "pictures" / name).write_bytes(b"x")
    save_network(project / "data/retrain.safetensors", ["cat", "dog"])
    said = run_dsrg("predict", "pictures", "--out", "o", code=1)
    assert not (project / "o").exists()
    assert "2 files of kind .heic left out" in said and "pip install pillow-heif" in said
    assert "1 file of kind .svg left out" in said and "1 file without an ending left out: pictures/notes" in said
    assert said.endswith("no image is left to predict\n")
