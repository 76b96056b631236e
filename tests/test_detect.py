"""`dsrg init`: a first params.yaml for somebody's folder, and what is said about it."""

import json
import shutil
from operator import attrgetter
from pathlib import Path

import pytest

from dsrg.errors import InputError
from dsrg.files import read_yaml
from dsrg.networks import weights as weights_module
from dsrg.params import load_params
from dsrg.sources.detect import SIZED_FOR, fitted
from helpers import ROOT
from helpers.command import run_dsrg
from helpers.data import save_flat, save_voc, write


def data_of(params: Path) -> dict:
    return read_yaml(params)["data"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the shipped recipes, and a folder `mine` in it: three images and their table."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    save_flat(tmp_path / "mine", "a.jpg", "b.png", "c.webp")
    write(tmp_path / "mine" / "tags.csv", "image,tags\na.jpg,cat\nb.png,cat;dog\nc.webp,dog\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights_module, "read_weights", lambda weights, *, name: {})  # they are there
    return tmp_path


def init(*arguments: object, code: int = 0) -> str:
    return run_dsrg("init", *arguments, code=code)


def test_folder_with_a_table(project):
    said = init("mine")
    assert said.startswith("mine: a folder of images with the table tags.csv, 3 rows\n")
    assert "has 2 images to train on, 1 to evaluate on, drawn at random (data.val_share)\n" in said
    assert "has 2 classes: cat, dog\n" in said
    assert "missing: no mask of an image to evaluate on" in said
    assert said.endswith("written from recipes/folder.yaml; look at its section data, then run: dsrg check\n")
    shipped = data_of(project / "recipes/folder.yaml")
    assert data_of(project / "params.yaml") == shipped | {"root": "mine", "separator": ";", "size": 161}


def test_only_values_of_data_are_changed(project):
    init("mine")
    recipe, written = ((project / name).read_text().split("\n") for name in ("recipes/folder.yaml", "params.yaml"))
    changed = [(old, new) for old, new in zip(recipe, written, strict=True) if old != new]
    assert [new.split(":")[0].strip() for _, new in changed] == [
        *("root", "separator", "size"),
        *("warmup", "steps", "start", "steps", "steps"),
    ]
    for old, new in changed:
        value, comment = (*old.split(": ", 1)[1].split("  # ", 1), "")[:2]
        note = f"dsrg init: for 2 training images, recipe {value}" if value.isdecimal() else ""
        expected = "; ".join(part for part in (note, comment) if part)
        assert new.partition("  # ")[2] == expected


SIZED = ("data.size", "cam.steps", "dsrg.steps", "retrain.steps", "grow.start", "optimizer.warmup")


def sized(project: Path, recipe: str, images: int) -> tuple[int, ...]:
    text = (project / f"recipes/{recipe}.yaml").read_text()
    write(project / "sized.yaml", fitted(text, images, sized_for=SIZED_FOR[recipe]))
    return attrgetter(*SIZED)(load_params(project / "sized.yaml"))


def test_time_goes_with_the_number_of_images(project):
    """A sixteenth of the images: a quarter of the steps on a quarter of the pixels; four times: twice the steps."""
    whole = sized(project, "folder", 642)
    assert whole == (321, 240, 450, 550, 150, 20)
    assert sized(project, "folder", 642 // 16) == (161, 60, 112, 138, 38, 5) == sized(project, "folder", 1)
    assert sized(project, "folder", 4 * 642) == (321, 480, 900, 1100, 300, 40) == sized(project, "folder", 10**6)
    assert sized(project, "folder", 161)[:2] == (225, 120)
    assert sized(project, "folder-scratch", 100) == (145, 160, 200, 200, 75, 5)
    for images in (1, 50, 300, 3000):
        size, *steps = sized(project, "folder", images)
        assert size % 16 == 1 and 145 <= size <= 321 and min(steps) > 0


def test_a_recipe_that_is_named_keeps_its_sizes(project):
    init("mine", "--recipe", "folder")
    written = load_params(project / "params.yaml")
    assert (written.data.size, written.cam.steps) == (321, 240)


def test_without_imagenet_weights_a_small_network_is_trained(project, monkeypatch):
    def nothing(weights: str, *, name: str) -> dict:
        raise InputError(f"no {weights} of {name}; put it at x.pth")

    monkeypatch.setattr(weights_module, "read_weights", nothing)
    said = init("mine")
    assert "missing: ImageNet weights, so a small network is trained from nothing" in said
    assert "(no imagenet of mobilenet_v2; put it at x.pth); with the weights in place: dsrg init mine --force" in said
    assert "written from recipes/folder-scratch.yaml" in said
    params = load_params(project / "params.yaml")
    assert (params.network.backbone, params.network.weights) == ("vgg_mini", None)
    assert (params.data.source, params.data.root, params.data.separator) == ("folder", "mine", ";")
    init("mine")  # the same again
    assert "recipes/folder.yaml" in init("mine", "--recipe", "folder", "--force"), "whoever names it gets it"
    (project / "mine").rename(project / "my own")
    assert "in place: dsrg init 'my own' --force" in init("my own", "--force"), "a command that can be pasted"


@pytest.mark.parametrize("name", ["schöne Bilder", 'a "b"', "1e5", "null", "x: y  # z", "-"])
def test_any_folder_name_survives(project, name):
    (project / "mine").rename(project / name)
    init(project / name)
    assert data_of(project / "params.yaml")["root"] == name


def test_what_is_missing_is_said(project):
    write(project / "mine/tags.csv", "image,tags,split\na.jpg,cat,training\nnope.jpg,dog,training\nb.png,dog,valid\n")
    save_flat(project, "mine/masks/b.png")
    said = init("mine")
    found = data_of(project / "params.yaml")
    assert (found["train"], found["val"]) == ("training", "valid")
    assert "has masks of 0 training and 1 evaluation images" in said and "scored" not in said
    assert "missing: mine/classes.txt: no such file; masks need it" in said
    assert "missing: mine/tags.csv:3: no image 'nope.jpg'" in said
    assert "note: 1 images are in no row of the table, so not used: c.webp" in said


def test_lists_and_other_splits(project):
    write(project / "mine/train.txt", "a\n")
    write(project / "mine/val.txt", "b\n")
    init("mine")
    found = data_of(project / "params.yaml")
    assert (found["train"], found["val"]) == ("train.txt", "val.txt")
    write(project / "mine/tags.csv", "image,tags,split\na.jpg,cat,x\nb.png,cat,x\nc.webp,dog,y\n")
    said = init("mine", "--force", code=2)
    assert said.startswith("mine/tags.csv: the splits are 'x' (2 rows), 'y' (1 rows); none reads as training")


@pytest.mark.parametrize("depth", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc(project, depth):
    root = project / "mine" / depth
    names = ("train", "val", "trainaug")
    save_voc(root, dict.fromkeys(names, "cat"), **{name: f"{name}\n" for name in names})
    said = init("mine")
    assert "the layout of PASCAL VOC, with the lists train, trainaug, val" in said
    assert (
        "has 1 images to train on, 1 to evaluate on\n" in said and "written from recipes/voc2012-mobilenet.yaml" in said
    )
    shipped = data_of(project / "recipes/voc2012-mobilenet.yaml")  # its trainings are those of the README's figures
    assert data_of(project / "params.yaml") == shipped | {"root": f"mine/{depth}".rstrip("/"), "train": "trainaug"}
    (root / "ImageSets/Segmentation/train.txt").unlink()
    (root / "ImageSets/Segmentation/trainaug.txt").rename(root / "ImageSets/Segmentation/default.txt")
    assert "has 'default' to train on, 'val' to evaluate on" in init("mine", "--force")


def test_coco(project):
    for split in ("train", "val"):
        save_flat(project / "mine", f"{split}2017/{split}.jpg")
        content = {"images": [{"id": 1, "file_name": f"{split}.jpg"}], "annotations": []}
        write(project / f"mine/annotations/captions_{split}2017.json", json.dumps(content))
        content["categories"] = [{"id": 18, "name": "dog"}]
        write(project / f"mine/annotations/instances_{split}2017.json", json.dumps(content))
        write(project / f"mine/annotations/person_keypoints_{split}2017.json", json.dumps(content))
    write(project / "mine/empty.json", "")
    said = init("mine")
    assert said.startswith("mine: COCO's format, with the files annotations/instances_train2017.json, annotations/inst")
    assert "has 1 images to train on, 1 to evaluate on\n" in said and "has 1 classes: dog\n" in said
    found = data_of(project / "params.yaml")
    assert found["source"] == "coco"
    assert found["val"] == "annotations/instances_val2017.json"
    (project / "mine/annotations/instances_val2017.json").unlink()
    init("mine", "--force")
    assert data_of(project / "params.yaml")["val"] is None


def test_a_params_file_that_was_worked_on_is_kept(project):
    params = project / "params.yaml"
    shutil.copy(project / "recipes/shapes.yaml", params)  # as shipped
    for _ in range(2):  # the same again
        init("mine")
    own = params.read_text().replace("seed: 0", "seed: 1", 1)
    params.write_text(own)
    assert init("mine", code=2).startswith("params.yaml: differs from every recipe")
    assert params.read_text() == own
    init("mine", "--force")
    assert params.read_text() != own


def test_another_recipe(project):
    assert "written from recipes/shapes.yaml" in init("mine", "--recipe", "shapes")
    written = load_params(project / "params.yaml")
    assert written.data.source == "folder" and written.network.backbone == "vgg_mini"
    said = init("mine", "--recipe", "nope", "--force", code=2)
    assert said.startswith("recipes/nope.yaml: no such recipe") and "folder, folder-scratch, shapes" in said


def test_files_that_a_mac_hides_are_no_tables(project):
    write(project / "mine/._tags.csv", b"\0\5\x16\7\xff")
    assert init("mine").startswith("mine: a folder of images with the table tags.csv, 3 rows\n")


def test_folders_that_are_nothing(project):
    assert init("nowhere", code=2).startswith("nowhere: no such folder; name the one that holds your images")
    write(project / "mine/tags.csv", "what,why\na.jpg,cat\n")
    said = init("mine", code=2)
    assert said.startswith("mine: 3 images, but no tags; expected tags.csv with the columns image and tags")
    assert "tags.csv has the columns what, why" in said
    write(project / "mine/tags.csv", '[{"id": 1, "annotations": [], "data": {"image": "a.jpg"}}]')
    (project / "mine/tags.csv").rename(project / "mine/tasks.json")
    said = init("mine", code=2)
    assert "tasks.json has the columns id, annotations, data; of Label Studio? export JSON-MIN or CSV" in said
    (project / "mine/tasks.json").unlink()
    write(project / "mine/x/y/tags.csv", "image,tags\na.jpg,cat\n")
    write(project / "mine/x/annotations/z.json", '{"images": [], "annotations": [], "categories": []}')
    said = init("mine", code=2)
    assert "mine/x: COCO's format, with the files annotations/z.json; name that folder instead" in said
    assert "mine/x/y: a folder of images with the table tags.csv, 1 rows; name that folder instead" in said
    assert init("recipes", code=2).startswith("recipes: no image in this folder or below it")
    write(project / "mine/tags.csv", 'image,tags\n"a.jpg,cat\n')
    assert init("mine", code=2).startswith("mine/tags.csv:2: unexpected end of data")
    assert not (project / "params.yaml").exists()
