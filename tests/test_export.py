"""`dsrg export`: networks for other programs, checked against PyTorch, and their model cards."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from dsrg.artifacts.model_card import is_model_card, model_card, provenance
from dsrg.artifacts.model_file import Model
from dsrg.errors import InputError
from dsrg.inference import export as exporting
from dsrg.inference.export import Deployed, difference, export, runner
from dsrg.networks import network
from dsrg.predictor import RELEASED, Predictor
from helpers.command import run_dsrg
from helpers.data import picture
from helpers.networks import NETWORK, save_network

ONE = RELEASED.model_copy(update={"scales": [1.0]})


def needs(form: str) -> None:
    if form == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason=f"{package} is not installed; pip install 'dsrg[export]'")


def deployed(settings=ONE, **changes) -> Deployed:
    torch.manual_seed(0)
    net = network.DeepLab(classes=3, **NETWORK | changes).eval()
    return Deployed(net, settings, size=65)


@pytest.fixture(scope="module", params=["torch", "onnx"])
def exported(request, tmp_path_factory) -> Callable:
    """An exported file of each format, opened."""
    needs(request.param)
    path = tmp_path_factory.mktemp("exported") / "file"
    export(deployed(), path, form=request.param)
    return runner(path, form=request.param)


@pytest.mark.parametrize("settings", [RELEASED, RELEASED.model_copy(update={"flip": True, "merge": "mean"})], ids=str)
def test_what_is_exported_is_what_predict_does(settings):
    own = deployed(settings)
    segmenter = Predictor(own.network, Model("segmenter", ["a", "b", "c"], NETWORK, 65, {}))
    image = picture(45, 70, seed=1)
    expected, expected_probs = segmenter.predict(image, settings=settings, probabilities=True)
    with torch.no_grad():
        labels, probs = own(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
    assert labels.dtype == torch.uint8 and labels.shape == (1, 45, 70)
    assert np.mean(labels[0].numpy() == expected) > 0.98
    np.testing.assert_allclose(probs[0], expected_probs, atol=0.05)  # predict's squares are rounded to 8 bits
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("shape", [(1, 40, 60), (3, 60, 40), (1, 2, 2), (1, 3, 700)])
def test_any_size_and_batch(exported, shape):
    images = np.random.default_rng(0).integers(0, 256, (shape[0], 3, *shape[1:]), dtype=np.uint8)
    labels, probs = exported(images)
    assert labels.shape == shape and labels.dtype == np.uint8
    with torch.no_grad():
        expected = deployed()(torch.from_numpy(images))[1].numpy()
    np.testing.assert_allclose(probs, expected, atol=1e-4)
    chosen = np.take_along_axis(probs, labels[:, None].astype(np.int64), axis=1)
    np.testing.assert_allclose(chosen[:, 0], probs.max(axis=1), atol=1e-6)


def test_another_backbone(tmp_path):
    needs("onnx")  # is made of what "torch" writes
    own = deployed(backbone="mobilenet_v2", output_stride=16)
    assert len(export(own, tmp_path / "file", form="onnx")) == exporting.CHECKED_SIZES


def test_a_difference_is_noticed(tmp_path, monkeypatch):
    own, sizes = deployed(), [(20, 30), (31, 17)]

    def run(images):
        with torch.no_grad():
            return tuple(output.numpy() for output in own(torch.from_numpy(images)))

    assert difference(own, run, sizes) is None
    assert "away from PyTorch" in difference(own, lambda images: (run(images)[0], run(images)[1] + 0.01), sizes)
    assert "away from PyTorch" in difference(own, lambda images: (run(images)[0], run(images)[1] * np.nan), sizes)
    assert "not the most probable" in difference(own, lambda images: ((run(images)[0] + 1) % 4, run(images)[1]), sizes)
    assert "it gives (2, 20, 10)" in difference(own, lambda images: (run(images)[0][..., :10], run(images)[1]), sizes)
    monkeypatch.setattr(exporting, "runner", lambda path, form: lambda images: (run(images)[0], run(images)[1] + 0.01))
    with pytest.raises(InputError, match="not written, its probabilities are 0.01 away"):
        export(own, tmp_path / "file", form="torch")
    assert not list(tmp_path.iterdir())


def test_wrong_calls(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="expected square"):
        deployed(RELEASED.model_copy(update={"shape": "native"}))
    with pytest.raises(ValueError, match="onnx, torch"):
        export(deployed(), tmp_path / "file", form="caffe")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(InputError, match=r"needs onnxruntime; run: pip install 'dsrg\[export\]'"):
        export(deployed(), tmp_path / "file", form="onnx")


# The command and the card


@pytest.fixture
def place(tmp_path, monkeypatch):
    save_network(tmp_path / "data" / "retrain.safetensors", ["cat", "a|b <c>"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_command(place):
    said = run_dsrg("export", "--format", "torch", "--out", "hand/on.pt2", "--scale", "1", "--flip")
    assert said == "hand/on.pt2, hand/on.md: 2 classes, checked on 4 sizes\n"
    assert sorted(path.name for path in Path("hand").iterdir()) == ["on.md", "on.pt2"]
    card = Path("hand/on.md").read_text()
    for line in (
        "# on.pt2",
        "| 1 | cat |",
        "| 2 | a\\|b &lt;c> |",
        "backbone: vgg_mini",
        "size: 65",
        "scales 1 of 65 pixels, with mirror images, scores merged by sum",
        "does not know this network",
    ):
        assert line in card, line
    assert is_model_card(Path("hand/on.md")), "so that it can be written again"
    image = picture(30, 40, seed=0)
    found = runner(Path("hand/on.pt2"), form="torch")(image.transpose(2, 0, 1)[None].copy())[1][0]
    expected = Predictor.load("data/retrain.safetensors").predict(
        image, settings=ONE.model_copy(update={"flip": True}), probabilities=True
    )[1]
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_refusals(place):
    def refused(*options: str) -> str:
        return run_dsrg("export", "--format", "torch", *options, code=2)

    assert "expected a name for the file such as model.pt2" in refused("--out", "model.md")
    assert "nothing.pt: no such file" in refused("--out", "model.pt2", "--model", "nothing.pt")
    before = Path("data/retrain.safetensors").read_bytes()
    for name in ("data/retrain.safetensors", "./data/../data/retrain.safetensors"):
        assert "retrain.safetensors: would replace the network itself (--model)" in refused("--out", name)
    assert Path("data/retrain.safetensors").read_bytes() == before and len(list(Path("data").iterdir())) == 1
    Path("data/README.md").write_text("# Mine\n")
    assert "data/README.md: the model card would replace it" in refused("--out", "data/README.pt2")
    assert Path("data/README.md").read_text() == "# Mine\n"
    assert sorted(path.name for path in place.iterdir()) == ["data"]


def lock_of(place: Path) -> dict:
    """A dvc.lock in which `retrain` made data/retrain.safetensors from an index, and `evaluate` measured it."""

    def entry(path: str) -> dict:
        return {"path": path, "hash": "md5", "md5": hashlib.md5((place / path).read_bytes()).hexdigest()}

    (place / "data/index.csv").write_text("id,split\na,train\nb,train\nc,val\n")
    (place / "results").mkdir()
    (place / "results/metrics.json").write_text('{"retrain": {"miou": 0.5, "per": [1]}, "dsrg": {"miou": 0.25}}')
    elsewhere = {"path": "elsewhere.pt", "hash": "md5", "md5": "0" * 32}
    return {
        "stages": {
            "prepare": {
                "deps": [{"path": "pictures", "md5": "1" * 32}],
                "params": {"params.yaml": {"data.root": "pictures", "data.train": "train"}},
                "outs": [entry("data/index.csv")],
            },
            "other": {"deps": [], "params": {"params.yaml": {"other": 1}}, "outs": [elsewhere]},
            "retrain": {
                "deps": [entry("data/index.csv")],
                "params": {"params.yaml": {"data.size": 65, "retrain": {"steps": 3}, "seed": 0}},
                "outs": [entry("data/retrain.safetensors")],
            },
            "evaluate": {"deps": [entry("data/retrain.safetensors")], "outs": [entry("results/metrics.json")]},
        }
    }


def test_what_a_lock_knows(place):
    lock = lock_of(place)
    YAML().dump(lock, place / "dvc.lock")
    made = provenance(Path("data/retrain.safetensors"), Path("dvc.lock"))
    assert made.stage == "retrain" and made.images == {"train": 2, "val": 1}
    data = {"root": "pictures", "train": "train", "size": 65}
    assert made.params == {"data": data, "retrain": {"steps": 3}, "seed": 0}
    assert made.metrics == {"miou": 0.5, "per": [1]}
    card = model_card("m", Model("segmenter", ["cat"], NETWORK, 65, {}), usage=[], made=made)
    assert "Stage `retrain`. Images: 2 in train, 1 in val." in card and "| miou | 0.5 |" in card and "steps: 3" in card

    Path("data/index.csv").write_text("id,split\nx,train\n")
    Path("results/metrics.json").write_text('{"retrain": {"miou": 0.9}}')
    made = provenance(Path("data/retrain.safetensors"), Path("dvc.lock"))
    assert made.images == {} and made.metrics == {}, "files that are no more those of the lock say nothing"
    save_network(Path("data/retrain.safetensors"), ["other"])
    assert provenance(Path("data/retrain.safetensors"), Path("dvc.lock")) is None


@pytest.mark.parametrize("text", ["", "stages: 3", "a: [", "outs: {}"])
def test_no_lock(place, text):
    Path("dvc.lock").write_text(text)
    assert provenance(Path("data/retrain.safetensors"), Path("dvc.lock")) is None
