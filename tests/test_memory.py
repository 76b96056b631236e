"""The memory of a training step, predicted; and the message where a GPU, here one that is not there, has less."""

import re
from types import SimpleNamespace

import pytest

from dsrg.networks.weights import untrained
from dsrg.params import Params, load_params
from dsrg.preflight import unfit_files
from dsrg.training import memory
from dsrg.training.memory import step_bytes
from helpers import ROOT

CLASSES = 20
PAGE = (ROOT / "docs/gpu.md").read_text()


def recipe_at(precision: str, *, recipe: str = "shapes", training: str = "dsrg") -> Params:
    params = load_params(ROOT / f"recipes/{recipe}.yaml")
    settings = getattr(params, training).model_copy(update={"precision": precision})
    return params.model_copy(update={training: settings})


def test_a_step_takes_weights_gradients_and_momentum_and_as_much_again_for_each_image():
    params = recipe_at("fp32")
    four, eight, sixteen = (step_bytes(params, "dsrg", classes=CLASSES, images=images) for images in (4, 8, 16))
    weights = sum(parameter.nbytes for parameter in untrained(params, "dsrg", classes=CLASSES).parameters())
    assert 2 * four - eight == pytest.approx(3 * weights, rel=0.01)
    assert sixteen - eight == pytest.approx(2 * (eight - four), rel=0.01)
    assert step_bytes(recipe_at("bf16"), "dsrg", classes=CLASSES, images=4) < four


@pytest.mark.parametrize("recipe, training", [("voc2012-vgg16", "cam"), ("voc2012-vgg16", "dsrg")])
def test_the_page_has_what_is_predicted(recipe, training):
    row = re.search(rf"`{recipe}` \| `{training}` \| (\d+) \| (\S+) \| (\S+) \|", PAGE)
    images = getattr(load_params(ROOT / f"recipes/{recipe}.yaml"), training).batch
    found = [
        step_bytes(recipe_at(precision, recipe=recipe, training=training), training, classes=CLASSES, images=images)
        for precision in ("bf16", "fp32")
    ]
    assert row.groups() == (str(images), *(f"{peak / 2**30:.2f}" for peak in found))


@pytest.mark.parametrize("free, lacking", [([2**40], 3), ([2**40, 2**25], 0), ([2**25] * 64, 3), ([], 3)])
def test_a_batch_that_cannot_fit_is_reported_before_any_training(free, lacking, monkeypatch):
    """Of several GPUs, the fullest says."""
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    monkeypatch.delenv("DSRG_DEVICES")
    params = recipe_at("fp32")
    params = params.model_copy(update={"data": params.data.model_copy(update={"points": None})})
    found = unfit_files(params, SimpleNamespace(split=lambda name: None), ["a", "b"])
    assert [line.split(":")[0] for line in found] == ["cam.batch", "dsrg.batch", "retrain.batch"][lacking:]
    if found:
        expected = r"dsrg.batch: a step on \d+ images of \d+ pixels takes .* or more, but the GPU has 32.0 MiB free; "
        assert re.match(expected + "lower dsrg.batch or data.size, set dsrg.precision to bf16, or train on", found[1])
