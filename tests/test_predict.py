"""`dsrg predict`, `dsrg pseudo-label` and `dsrg.Predictor`: pictures of your own to label maps."""

import doctest
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

import dsrg
from dsrg import predictor
from dsrg.artifacts.model_file import Model, save_model
from dsrg.artifacts.polygons import annotations_of, polygon_outlines
from dsrg.commands import main
from dsrg.data.images import SizedImage, limit_side, read_image, read_mask, read_sized
from dsrg.data.palette import voc_palette
from dsrg.errors import InputError, RunError
from dsrg.inference import predict, released
from dsrg.inference.predict import enlarged
from dsrg.networks import network
from dsrg.params import CrfKernel, PredictParams, load_params
from dsrg.predictor import RELEASED, RELEASED_CRF
from dsrg.sources.pictures import Picture, check_pictures, find_pictures, tags_of
from helpers import ROOT
from helpers.command import run_dsrg
from helpers.data import encoded, picture, read_csv, write
from helpers.networks import NETWORK, save_network
from helpers.refusals import assert_problems, refusals


def segmenter_of(classes: int) -> dsrg.Predictor:
    torch.manual_seed(0)
    net = network.DeepLab(classes=classes, **NETWORK).eval()
    return dsrg.Predictor(net, Model("segmenter", [f"c{k}" for k in range(1, classes + 1)], NETWORK, 65, {}))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with data/retrain.safetensors of the classes cat and dog."""
    save_network(tmp_path / "data" / "retrain.safetensors", ["cat", "dog"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(name: str, height: int = 40, width: int = 56, **options: object) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(height, width, seed=sum(name.encode()))).save(path, **options)
    return path


# The numbers


@pytest.mark.parametrize("tags", [None, [], ["c2"], ["c3", "c1"]], ids=str)
@pytest.mark.parametrize("crf", [False, True])
def test_labels_and_probabilities_are_of_the_tags(tags, crf):
    own, image = segmenter_of(3), picture(30, 41, seed=3)
    labels, probs = own.predict(image, tags=tags, crf=crf, probabilities=True)
    assert len(np.unique(labels)) > 1 or not tags
    assert np.array_equal(own.predict(image, tags=tags, crf=crf), labels)
    assert np.array_equal(probs.argmax(axis=0), labels)
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-4)
    assert not probs[[False] + [tags is not None and name not in tags for name in own.classes]].any()


def test_crf_on_a_lattice_gives_the_same(monkeypatch):
    own, image = segmenter_of(2), picture(30, 41, seed=3)
    by_processes = own.predict(image, crf=True, probabilities=True)
    monkeypatch.setattr(predict, "engine_on", lambda device: "lattice")
    engine = predict.dense_crf
    monkeypatch.setattr(predict, "dense_crf", lambda *a, **k: engine(*a, **k, engine="lattice"))
    on_a_lattice = own.predict(image, crf=True, probabilities=True)
    np.testing.assert_allclose(on_a_lattice[1], by_processes[1], atol=1e-3)


def test_one_at_a_time_or_together():
    own, pictures = segmenter_of(2), [picture(30 + k, 41, seed=k) for k in range(5)]
    present = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0], [1, 1, 1]], bool)
    options = {"settings": RELEASED, "kernel": None, "probabilities": True, "unsure_below": 0.0}
    together = list(own.predictions(iter(pictures), present, batch=3, **options))
    assert [found.labels.shape for found in together] == [image.shape[:2] for image in pictures]
    for image, row, found in zip(pictures, present, together, strict=True):
        (alone,) = own.predictions([image], row[None], **options)
        np.testing.assert_allclose(alone.probs, found.probs, atol=1e-5)


@pytest.mark.parametrize("shape", ["square", "native"])
@pytest.mark.parametrize("height, width", [(1, 1), (3, 2000), (2000, 1), (9, 9), (33, 47)])
def test_any_size(height, width, shape):
    chosen = RELEASED.model_copy(update={"shape": shape})
    for crf in (False, True):
        labels = segmenter_of(2).predict(picture(height, width, seed=0), settings=chosen, crf=crf, max_side=100)
        assert labels.shape == (height, width) and labels.dtype == np.uint8


@pytest.mark.parametrize("classes", [1, 80, 254])
def test_any_number_of_classes(classes):
    own = segmenter_of(classes)
    nn.init.constant_(own.network.head.branches[0][-1].bias, 0.0)
    with torch.no_grad():
        own.network.head.branches[0][-1].bias[classes] = 1e4
    assert (own.predict(picture(20, 20, seed=0)) == classes).all()


@pytest.mark.parametrize("crf", [False, True])
def test_large_images_are_worked_on_smaller(crf):
    image = picture(60, 200, seed=4)
    small = limit_side(image, 100)
    assert small.shape == (30, 100, 3) and limit_side(image, 200) is image
    labels, probs = segmenter_of(2).predict(image, max_side=100, crf=crf, probabilities=True)
    assert labels.shape == (60, 200) and probs.shape == (3, 30, 100)
    assert np.array_equal(labels[::2, ::2], segmenter_of(2).predict(small, crf=crf))


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)), st.integers(1, 20), st.integers(1, 20)
)
def test_enlarging_adds_no_label(labels, rows, columns):
    shape = labels.shape[0] + rows, labels.shape[1] + columns
    large = enlarged(labels, shape)
    assert large.shape == shape and set(np.unique(large)) == set(np.unique(labels))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=7),
    st.integers(1, 4),
    st.integers(1, 64),
    st.sampled_from(["square", "native"]),
)
def test_bits_are_those_of_a_plain_loop(sizes, batch, max_side, shape):
    own, pictures = segmenter_of(3), [picture(*size, seed=k) for k, size in enumerate(sizes)]
    chosen = RELEASED.model_copy(update={"max_side": max_side, "shape": shape})
    expected = []
    for start in range(0, len(pictures), batch):
        group = pictures[start : start + batch]
        small = [limit_side(image, max_side) for image in group]
        for image, one in zip(group, predict.predict_logits(own.network, small, None, chosen, size=65), strict=True):
            highest, second, _ = one.scores.topk(3, dim=0).values
            labels = one.scores.argmax(dim=0).masked_fill(highest - second < 1e-4, 255)  # a matter of rounding
            expected.append(enlarged(labels.numpy().astype(np.uint8), image.shape[:2]))
    found = list(own.predictions(iter(pictures), None, settings=chosen, kernel=None, batch=batch))
    assert len(found) == len(expected)
    for one, labels in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.labels[labels != 255], labels[labels != 255])


@settings(max_examples=15, deadline=None)
@given(st.tuples(st.integers(64, 900), st.integers(64, 900)), st.integers(1, 8), st.integers(0, 99))
@example((97, 364), 1, 1)  # an island where two classes are equally likely
@example((256, 65), 7, 86)
@example((733, 77), 5, 65)  # two cells wide
def test_masks_of_large_jpegs_differ_at_borders_alone(shape, orientation, seed):
    """They are decoded at less than their size. Masks are the same but for pixels less than half a cell from another
    class, and those of which the network is unsure. Measured on 6,519 random pictures: with three cells or more across
    4 % of the pixels at most, with less 11 %; beyond that border the two highest probabilities differed by .1 and .23
    at most."""
    own = segmenter_of(3)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.jpg"
        write(path, encoded(picture(*shape, seed=seed), "JPEG", quality=95, turned=orientation))
        labels, whole = own.predict(path, max_side=128), read_image(path)
    small, probs = own.predict(limit_side(whole, 128), probabilities=True)
    second, first = np.sort(probs, axis=0)[-2:]
    share, margin = (0.06, 0.15) if min(small.shape) >= 24 else (0.15, 0.3)
    near = np.ones((17, 17), np.uint8)
    inside = (cv2.erode(small, near) == cv2.dilate(small, near)) & (first - second > margin)
    expected, inside = (enlarged(one.astype(np.uint8), whole.shape[:2]) for one in (small, inside))
    assert labels.shape == expected.shape and np.mean(labels != expected) < share
    assert not (labels != expected)[inside > 0].any()


def test_shipped_numbers_are_the_released_ones():
    params = load_params(ROOT / "recipes/voc2012-vgg16.yaml")
    assert PredictParams(**params.evaluate.model_dump(include=set(PredictParams.model_fields))) == RELEASED
    assert CrfKernel(**params.crf.test.model_dump()) == RELEASED_CRF
    assert released.PIXELS_MAX == params.data.pixels_max
    default = {option.name: option.default for option in main.commands["predict"].params}
    expected = released.CRF | released.PREDICT | {"pixels_max": released.PIXELS_MAX}
    expected["scale"] = expected.pop("scales")
    assert expected == {key: default[key] for key in expected}


# In a notebook


def test_the_examples_in_docstrings_are_true(place):
    save("rex.jpg", 48, 64)
    assert doctest.testmod(predictor) == (0, 7)


def test_the_package_itself_stays_light():
    code = "import sys, dsrg; assert 'torch' not in sys.modules and not hasattr(dsrg, 'Nothing'); dsrg.Predictor"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


HEAVY = {"torch", "matplotlib", "dvc", "lightning", "torchvision", "torch._dynamo", "pydensecrf", "pandas", "scipy"}


@pytest.mark.parametrize(
    ("command", "needed"), [("--help", set()), ("predict --help", set()), ("predict a.jpg --out out", {"torch"})]
)
def test_a_command_imports_what_it_needs(place, command, needed):
    """MobileNetV2 is the largest network that most will use: it takes no library of networks to load it."""
    with torch.device("meta"):
        shape = NETWORK | {"backbone": "mobilenet_v2", "head_channels": 2}
        values = network.DeepLab(classes=1, **shape).to_empty(device="cpu").state_dict()
    zeros = {name: torch.zeros_like(value) for name, value in values.items()}
    save_model(Path("data/retrain.safetensors"), Model("segmenter", ["cat"], shape, 33, zeros))
    save("a.jpg")
    code = (
        "import gc, sys; from dsrg.commands import main; main(sys.argv[1:], standalone_mode=False); "
        "print(gc.isenabled(), gc.get_freeze_count() > 0, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True, check=True)
    collects, frozen, *modules = done.stdout.splitlines()[-1].split()
    assert HEAVY & set(modules) == needed and collects == "True" and (frozen == "True") == bool(needed)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((4, 4), np.uint8), "uint8 (4, 4); expected uint8 (height, width, 3)"),
        (np.zeros((4, 4, 4), np.uint8), "expected uint8 (height, width, 3)"),
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((0, 4, 3), np.uint8), "(0, 4, 3)"),
        ("nowhere.jpg", "nowhere.jpg"),
        (Image.new("RGB", (4, 4)), "an image PIL.Image.Image; expected a path, or an array uint8 (height, width, 3)"),
        (torch.zeros(4, 4, 3), "an image torch.Tensor; expected a path"),
        (None, "an image builtins.NoneType; expected a path"),
    ],
)
def test_no_image(image, message):
    assert_problems(refusals(segmenter_of(1).predict, image), [message])


def test_tags_are_classes():
    own, image = segmenter_of(2), picture(5, 5, seed=0)
    first, second = refusals(own.predict, image, tags=["c1", "C2", "x"])
    assert "'C2'" in first and "did you mean 'c2'" in first
    assert second.endswith("the network knows no other classes")
    assert np.array_equal(own.predict(image, tags="c2"), own.predict(image, tags=["c2"])), "one tag needs no list"
    said = "tags [1, None]: expected names of classes, such as 'c1'"
    assert_problems(refusals(own.predict, image, tags=[1, "c1", None]), [said])


@pytest.mark.parametrize(
    "wrong", [{"unsure_below": 2.0}, {"unsure_below": float("nan")}, {"max_side": 0}, {"max_side": -1}], ids=str
)
def test_numbers_out_of_range(wrong):
    with pytest.raises(InputError, match=rf"{next(iter(wrong))} \S+: expected"):
        segmenter_of(1).predict(picture(5, 5, seed=0), **wrong)


def test_no_model(tmp_path):
    good = save_network(tmp_path / "good.pt", ["a"])
    assert dsrg.Predictor.load(str(good), device="cpu").classes == ["a"]
    missing = {key: value for key, value in NETWORK.items() if key != "head"}
    for name, changes, message in [
        ("kind", {"kind": "classifier"}, "holds a classifier"),
        ("incomplete", {"network": missing}, "describes no network"),
        ("other", {"network": NETWORK | {"head_channels": 9}}, "its weights do not fit the network"),
        ("unknown", {"network": NETWORK | {"backbone": "vgg17"}}, "describes no network"),
    ]:
        with pytest.raises(InputError, match=message):
            dsrg.Predictor.load(save_network(tmp_path / f"{name}.pt", ["a"], **changes))
    with pytest.raises(InputError, match="expected cpu or cuda"):
        dsrg.Predictor.load(good, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no GPU"):
            dsrg.Predictor.load(good, device="cuda")


# The command


def test_a_folder_with_everything(place):
    save("mine/a b.jpg", 40, 56)
    save("mine/cats/ä.PNG", 33, 20)
    save("mine/images/x.webp")
    write(Path("mine/turned.jpg"), encoded(picture(20, 50, seed=0), "JPEG", turned=6))
    said = run_dsrg("predict", "mine", "--out", "out", "--overlays", "--probabilities", "--polygons", "--crf")
    assert "masks of 4 images" in said
    rows = read_csv("out/images.csv")
    assert [row["id"] for row in rows] == ["a b", "cats__ä", "x", "turned"]
    assert Path("out/classes.txt").read_text() == "cat\ndog\n"
    document = json.loads(Path("out/polygons.json").read_text())
    own = dsrg.Predictor.load("data/retrain.safetensors")
    for row, image in zip(rows, document["images"], strict=True):
        labels = read_mask(f"out/masks/{row['id']}.png")
        height, width = read_image(row["image"]).shape[:2]
        assert labels.shape == (height, width) == (int(row["height"]), int(row["width"]))
        assert np.array_equal(labels, own.predict(row["image"], crf=True)), "the command is the API"
        assert row["classes"] == "|".join(own.classes[k - 1] for k in np.unique(labels) if k)
        assert np.array_equal(_painted(document, image), labels), "polygons are exactly the mask"
        with np.load(f"out/probabilities/{row['id']}.npz") as found:
            assert found["classes"].tolist() == ["background", "cat", "dog"]
            assert found["probs"].shape == (3, height, width) and found["probs"].dtype == np.float16
        assert read_image(f"out/overlays/{row['id']}.png").shape == (height, width, 3)
    assert read_mask("out/masks/turned.png").shape == (50, 20)
    palette = Image.open("out/masks/x.png").getpalette()
    assert palette == voc_palette().ravel()[: len(palette)].tolist()
    assert not list(place.rglob("*.tmp"))


def _painted(document: dict, image: dict) -> np.ndarray:
    labels = np.zeros((image["height"], image["width"]), np.uint8)
    for annotation in document["annotations"]:
        if annotation["image_id"] == image["id"]:
            shapes = coco_mask.frPyObjects(annotation["segmentation"], *labels.shape)
            labels[coco_mask.decode(coco_mask.merge(shapes)) > 0] = annotation["category_id"]
    return labels


def test_plain_masks_alone(place):
    save("a.jpg")
    run_dsrg("predict", "a.jpg", "--out", "out")
    names = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*"))
    assert names == ["classes.txt", "images.csv", "masks", "masks/a.png"]


def test_options_reach_the_network(place):
    save("a.jpg", 60, 90)
    own = dsrg.Predictor.load("data/retrain.safetensors")
    options = "--scale 0.5 --scale 2 --flip --merge mean --shape native --unsure-below 0.4 --max-side 50 --batch 1"
    run_dsrg("predict", "a.jpg", "--out", "one", "--device", "cpu", *options.split())
    chosen = PredictParams(shape="native", scales=[0.5, 2.0], flip=True, merge="mean", max_side=50)
    expected = own.predict("a.jpg", settings=chosen, unsure_below=0.4)
    assert np.array_equal(read_mask("one/masks/a.png"), expected)
    kernel = "--crf --gaussian-weight 1 --gaussian-xy 2 --bilateral-weight 3 --bilateral-xy 4 --bilateral-rgb 5 "
    kernel += "--iterations 2 --min-prob 1e-3"
    run_dsrg("predict", "a.jpg", "--out", "two", *kernel.split())
    values = dict(zip(CrfKernel.model_fields, (1, 2, 3, 4, 5, 2, 1e-3), strict=True))
    expected = own.predict("a.jpg", crf=True, kernel=CrfKernel(**values))
    assert np.array_equal(read_mask("two/masks/a.png"), expected)


def test_same_bytes_twice_and_for_any_batch(place):
    for name in ("a.png", "b.png", "c.png"):
        save(name)
    for out, batch in (("one", 2), ("two", 2), ("three", 1)):
        run_dsrg("predict", "a.png", "b.png", "c.png", "--out", out, "--batch", batch, "--probabilities", "--polygons")
    files = [path.relative_to("one") for path in Path("one").rglob("*") if path.is_file()]
    assert len(files) == 9
    for path in files:
        assert (Path("one") / path).read_bytes() == (Path("two") / path).read_bytes(), path
    for name in "abc":
        assert np.mean(read_mask(f"one/masks/{name}.png") == read_mask(f"three/masks/{name}.png")) > 0.999


def test_all_that_is_wrong_at_once(place):
    save("mine/good.jpg")
    save("mine/wide.png", 30, 50)
    Path("mine/empty.jpg").touch()
    Path("mine/page.png").write_text("<html>")
    whole = save("mine/cut.jpg", 200, 200)
    whole.write_bytes(whole.read_bytes()[:900])
    Path("bare").mkdir()
    Path("full").mkdir()
    Path("full/thesis.txt").touch()
    arguments = ["mine", "gone.jpg", "bare", "*.tif", "--out", "full", "--model", "nothing.pt", "--pixels-max", "1400"]
    said = run_dsrg("predict", *arguments, code=2)
    for line in ("gone.jpg: ", "bare: no image in this folder", "*.tif: no file fits", "full: exists", "nothing.pt: "):
        assert line in said, line
    assert "data." not in said and list(Path("full").iterdir()) == [Path("full/thesis.txt")]
    Path("full/thesis.txt").unlink()
    said = run_dsrg("predict", "mine", "--out", "full", "--pixels-max", "2300", code=2)
    for line in ("empty.jpg: the file is empty", "page.png: a web page", "cut.jpg: ", "3 problems"):
        assert line in said, line
    assert not list(Path("full").iterdir())
    said = run_dsrg("predict", "mine", "--out", "full", "--pixels-max", "1500", "--skip-bad")
    assert "left out: mine/good.jpg: more than 1,500 pixels (--pixels-max)" in said
    assert [path.name for path in Path("full/masks").iterdir()] == ["wide.png"]
    assert "no image is left" in run_dsrg("predict", "mine/empty.jpg", "--out", "new", "--skip-bad", code=1)
    assert not Path("new").exists()


def test_what_ends_the_work_is_told_without_a_traceback(place, monkeypatch):
    def killed(jobs: object) -> None:
        raise RunError("a worker process was killed, most likely for want of memory")

    monkeypatch.setattr("dsrg.inference.predict.workers.ordered_map", lambda function, jobs: killed(jobs))
    said = run_dsrg("predict", save("a.png"), "--out", "out", "--crf", code=1)
    assert said.endswith("a worker process was killed, most likely for want of memory\n")
    assert not Path("out").exists()


def test_a_picture_that_breaks_meanwhile_ends_the_command(place, monkeypatch):
    for name in "abcdef":
        save(f"{name}.png")

    def broken(path: Path, max_side: int) -> SizedImage:
        if path.name == "d.png":
            raise InputError(f"{path}: gone")
        return read_sized(path, max_side)

    monkeypatch.setattr("dsrg.data.images.read_sized", broken)
    for batch in (1, 8):
        arguments = [*(f"{name}.png" for name in "abcdef"), "--out", "out", "--batch", batch]
        assert "d.png: gone" in run_dsrg("predict", *arguments, code=2)
        assert {path.name for path in place.iterdir()} == {*(f"{name}.png" for name in "abcdef"), "data"}


def test_pictures_are_checked_in_order(place):
    paths = [save(f"{number}.png", 5 + number % 7, 9) for number in range(12)]
    for number in (2, 7, 9):
        paths[number].write_bytes(b"")
    found, problems = check_pictures([Picture(path, path.stem) for path in paths], pixels_max=90)
    assert [picture.path for picture in found] == [paths[k] for k in (0, 1, 3, 4, 5, 8, 10, 11)]
    assert [facts.height for facts in found.values()] == [5, 6, 8, 9, 10, 6, 8, 9]
    assert [problem.split(":")[0] for problem in problems] == ["2.png", "6.png", "7.png", "9.png"]


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1", "5", "x"])
def test_no_scale(place, value):
    run_dsrg("predict", save("a.png"), "--out", "out", "--scale", value, code=2)


def test_what_is_odd_is_said(place):
    Image.fromarray(picture(9, 9, seed=0)).convert("CMYK").save("a.jpg")
    Image.fromarray(picture(9, 9, seed=0)).convert("CMYK").save("b.jpg")
    assert "warning: 2 images are CMYK" in run_dsrg("predict", "a.jpg", "b.jpg", "--out", "out")


# Which pictures


def test_named_in_many_ways(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("p/a.jpg", "p/sub/a.png", "p/sub/b.png", "p/B.jpg", "q/[1].jpg", "p/masks/a.png"):
        save(name, 2, 2)

    def found(*named):
        return {picture.path.as_posix(): picture.id for picture in find_pictures(named).pictures}

    assert found("p") == {"p/B.jpg": "B", "p/a.jpg": "a", "p/sub/a.png": "sub__a", "p/sub/b.png": "sub__b"}
    assert found("p/sub/a.png", "p/sub/a.png", "./p/sub") == {"p/sub/a.png": "a", "p/sub/b.png": "b"}
    assert found("p/**/b.*") == {"p/sub/b.png": "b"}
    assert found("p/*") == {"p/B.jpg": "B", "p/a.jpg": "a"}, "folders that fit a pattern are not entered"
    assert found("q/[1].jpg") == {"q/[1].jpg": "[1]"}, "a file that exists is no pattern"
    both = found("p/a.jpg", "p/sub/a.png")
    assert both == found("p/sub/a.png", "p/a.jpg") and len(set(both.values())) == 2
    assert all(image_id.startswith("a-") for image_id in both.values())
    case = found("p/B.jpg", "p/sub/b.png")
    assert len({image_id.casefold() for image_id in case.values()}) == 2
    assert found("") == {} and find_pictures([""]).problems[0].startswith("'': no name; expected files")
    assert len(found(".")) == 6 and len(found("p", "")) == 4
    assert find_pictures(["a\udcff.jpg"]).problems == ["a\\udcff.jpg: a name that is not UTF-8; rename it"]


def test_links_to_themselves(place):
    for name in ("mine/a.png", "mine/loop.png", "out"):
        save("mine/a.png") if name == "mine/a.png" else Path(name).symlink_to(Path(name).name)
    said = run_dsrg("predict", "mine", "mine/loop.png", "--out", "out", code=2)
    for line in ("mine/loop.png: Too many levels of symbolic links", "out: exists; name a new", "2 problems"):
        assert line in said, said
    assert "masks of 1 image" in run_dsrg("predict", "mine", "--out", "new", "--skip-bad")


def test_earlier_predictions_are_no_pictures(place):
    save("mine/a.png")
    run_dsrg("predict", "mine", "--out", "mine/out", "--overlays")
    said = run_dsrg("predict", "mine", "--out", "again")
    assert "mine/out: an earlier prediction" in said and "masks of 1 image" in said


# With tags


def test_pseudo_labels_keep_to_the_tags(place):
    for name in ("mine/a.png", "mine/b.png", "mine/sub/c.png"):
        save(name)
    Path("tags.csv").write_text("image;tags\na;cat\nb.png;\nsub/c.png;dog,cat\nelsewhere.jpg;horse\n")
    run_dsrg("pseudo-label", "mine", "--tags", "tags.csv", "--separator", ",", "--out", "out")
    own = dsrg.Predictor.load("data/retrain.safetensors")
    for name, tags in (("a", ["cat"]), ("b", []), ("sub__c", ["cat", "dog"])):
        labels = read_mask(f"out/masks/{name}.png")
        assert np.array_equal(labels, own.predict(f"mine/{name.replace('__', '/')}.png", tags=tags, crf=True))
    assert not read_mask("out/masks/b.png").any()


def test_wrong_tags(place):
    for name in ("mine/a.png", "mine/b.png", "mine/c.png"):
        save(name)
    Path("tags.csv").write_text("image,tags\na,cat\na.png,dog\nb,Cat|horse\n")
    said = run_dsrg("pseudo-label", "mine", "--tags", "tags.csv", "--out", "out", code=2)
    for line in (
        "mine/a.png: 2 rows (tags.csv:2, tags.csv:3)",
        "tags.csv:4: tag 'Cat' is none of the 2 classes (cat ... dog); did you mean 'cat'?",
        "tags.csv:4: tag 'horse'",
        "mine/c.png: no row in tags.csv",
        "4 problems",
    ):
        assert line in said, line
    assert not Path("out").exists()
    for name, line in (
        ("nowhere.csv", "nowhere.csv: no such file; set --tags to one of those there: tags.csv (--tags)"),
        ("mine/a.csv", "mine/a.csv: no such file; expected a table of tags (--tags)"),
        ("mine/a.png", "mine/a.png: expected a table of tags, .csv, .tsv, .jsonl or .json (--tags)"),
    ):
        assert line in run_dsrg("pseudo-label", "mine", "--tags", name, "--out", "out", code=2)


def test_a_row_that_may_be_two_pictures_is_neither(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = find_pictures([str(save("p/a/x.png", 2, 2).parents[1]), str(save("q/x.png", 2, 2))]).pictures
    Path("tags.csv").write_text("image,tags\nx,cat\n")
    assert refusals(tags_of, pictures, Path("tags.csv"), ["cat"], separator="|") == [
        f"{path}: 'x' (tags.csv:2) may be another picture too; name more of its path"
        for path in ("p/a/x.png", "q/x.png")
    ]
    Path("tags.csv").write_text("image,tags\na/x,cat\nq/x,\n")
    assert tags_of(pictures, Path("tags.csv"), ["cat"], separator="|") == [("cat",), ()]


# Polygons


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
@settings(max_examples=200)
def test_polygons_are_exactly_the_pixels(inside):
    if not inside.any():
        return
    shapes = coco_mask.frPyObjects([ring.tolist() for ring in polygon_outlines(inside)], *inside.shape)
    assert np.array_equal(coco_mask.decode(coco_mask.merge(shapes)), inside)


def test_a_ring_around_a_hole():
    labels = np.zeros((5, 7), np.uint8)
    labels[1:4, 2:5] = 3
    labels[2, 3] = 255
    labels[0, 0] = 3
    first, second = annotations_of(labels, image_id=9)
    assert first["segmentation"] == [[0, 0, 0, 1, 1, 1, 1, 0]] and first["area"] == 1
    assert second["bbox"] == [2, 1, 3, 3] and second["area"] == 8 and len(second["segmentation"]) == 2
    assert {(a["image_id"], a["category_id"], a["iscrowd"]) for a in (first, second)} == {(9, 3, 0)}
    assert list(annotations_of(np.full((3, 3), 255, np.uint8), image_id=1)) == []
