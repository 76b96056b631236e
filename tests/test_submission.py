"""The archive for the evaluation server: same label maps, same bytes, and no map in it that the server would refuse."""

import gzip
import tarfile

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from dsrg.artifacts.submission import FOLDER, write_submission
from dsrg.data.classes import VOC_CLASSES
from dsrg.data.palette import voc_palette
from dsrg.files import sha256
from helpers import ROOT
from helpers.command import run_dsrg
from helpers.data import picture
from helpers.networks import save_network
from helpers.project import recipe
from helpers.refusals import refusals

SHAPES = {"2008_000006": (4, 6), "2008_000008": (5, 3)}
RNG = np.random.default_rng(0)
MAPS = {image_id: RNG.integers(0, 21, shape, dtype=np.uint8) for image_id, shape in SHAPES.items()}
PALETTE = voc_palette()
FIRST, SECOND = (f"{FOLDER}/{image_id}.png" for image_id in SHAPES)


def test_what_is_written(tmp_path):
    path = tmp_path / "new" / "test.tar.gz"
    write_submission(path, SHAPES, MAPS.values())
    with tarfile.open(path) as archive:
        assert archive.getnames() == [
            "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png",
            "results/VOC2012/Segmentation/comp6_test_cls/2008_000008.png",
        ]
        for member, labels in zip(archive.getmembers(), MAPS.values(), strict=True):
            image = Image.open(archive.extractfile(member))
            assert image.mode == "P" and image.getpalette() == PALETTE.ravel().tolist()
            assert np.array_equal(np.array(image), labels)


def test_same_maps_same_bytes(tmp_path, monkeypatch):
    write_submission(tmp_path / "a.tar.gz", SHAPES, MAPS.values())
    for module in (gzip, tarfile):
        monkeypatch.setattr(module.time, "time", lambda: 2e9)
    write_submission(tmp_path / "b.tar.gz", SHAPES, iter(MAPS.values()))
    assert sha256(tmp_path / "a.tar.gz") == sha256(tmp_path / "b.tar.gz")


def test_whole_or_not_at_all(tmp_path):
    path = tmp_path / "test.tar.gz"

    def stopped():
        yield MAPS["2008_000006"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_submission(path, SHAPES, stopped())
    with pytest.raises(ValueError):
        write_submission(path, SHAPES, list(MAPS.values())[:1])
    bad = [np.full((4, 6), 255, np.uint8), MAPS["2008_000008"][:, :2]]
    assert refusals(write_submission, path, SHAPES, bad) == [
        f"{path}: {FIRST}: holds 255; expected 0 to 20",
        f"{path}: {SECOND}: 2 x 5 pixels; its image has 3 x 5",
    ]
    assert list(tmp_path.iterdir()) == []


# The command


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a final network for VOC's classes and a test split of two images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSRG_WORKERS", "1")
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    params = recipe()
    params["data"]["root"] = "voc"
    params["crf"]["test"]["iterations"] = 2
    YAML().dump(params, tmp_path / "params.yaml")
    for folder in ("JPEGImages", "ImageSets/Segmentation"):
        (tmp_path / "voc" / folder).mkdir(parents=True)
    for image_id, shape in {"2008_000008": (30, 40), "2008_000006": (44, 25)}.items():
        Image.fromarray(picture(*shape, seed=3)).save(tmp_path / "voc" / "JPEGImages" / f"{image_id}.jpg")
    (tmp_path / "voc/ImageSets/Segmentation/test.txt").write_text("2008_000006\n2008_000008\n")
    save_network(tmp_path / "data/retrain.safetensors", VOC_CLASSES, size=33)
    return tmp_path


def test_the_command_makes_an_archive_that_passes(project):
    said = run_dsrg("submission", "--list", "test", "--out", "out.tar.gz")
    assert said.endswith("out.tar.gz: 2 label maps, checked\n")
    with tarfile.open("out.tar.gz") as archive:
        shapes = [np.array(Image.open(archive.extractfile(member))).shape for member in archive]
    assert shapes == [(44, 25), (30, 40)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--list", "nope"], "nope.txt: no such list; set --list to one of those there: test"),
        (["--out", "."], "is a directory"),
    ],
)
def test_a_wrong_command_makes_nothing(project, arguments, reason):
    assert reason in run_dsrg("submission", "--out", "out.tar.gz", *arguments, code=2)
    assert not (project / "out.tar.gz").exists()


def test_a_network_of_other_classes_is_refused(project):
    save_network(project / "data/retrain.safetensors", ["cat", "dog"])
    said = "retrain.safetensors: knows 2 classes (cat ... dog); the evaluation server expects VOC's twenty"
    assert said in run_dsrg("submission", "--out", "out.tar.gz", code=2)
