"""On a CUDA device that is not there: everything runs, nothing mixes devices, and no more waits than are named here."""

from collections import Counter
from inspect import signature

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.inference.cams import activation_maps
from dsrg.inference.gradient_saliency import gradient_saliency, median3x3, shares_below
from dsrg.inference.predict import merge_scales, multiscale_logits
from dsrg.inference.released import PREDICT
from dsrg.method.crf import clamped, dense_crf, unary_energies
from dsrg.method.growing import grow
from dsrg.method.losses import boundary_loss, seeding_loss, smoothed_softmax
from dsrg.method.weak import LOSSES
from dsrg.networks.weights import untrained
from dsrg.params import Params, PredictParams, load_params
from dsrg.training.cam import cam_criterion
from dsrg.training.dsrg import Supervisor, dsrg_criterion
from dsrg.training.fit import Criterion, gradient_norm
from dsrg.training.optim import build_optimizer
from dsrg.training.retrain import retrain_criterion
from helpers import ROOT
from helpers.fake_cuda import FakeCuda, autocast, on_cuda

CLASSES, BATCH = 20, 2
RECIPES = ["shapes", "voc2012-vgg16", "voc2012-mobilenet", "voc2012-resnet101"]
# The one wait of a training step: growth finds its regions on the host.
GROWTH = Counter({"growing._seeded_regions: copy to the host": 1})


def params_of(recipe: str) -> Params:
    return load_params(ROOT / "recipes" / f"{recipe}.yaml")


def batch_of(size: int, device: str = "cuda") -> Batch:
    grid = (size - 1) // 8 + 1
    images = torch.zeros(BATCH, 3, size, size, dtype=torch.uint8, device=device)
    labels = torch.zeros(BATCH, grid, grid, dtype=torch.uint8, device=device)
    return Batch(images, labels, torch.ones(BATCH, CLASSES + 1, dtype=torch.bool, device=device), ["a", "b"])


def waits_of_a_step(network: nn.Module, objective: Criterion, settings: object, *, size: int) -> Counter[str]:
    """One whole step, as `dsrg.training.fit` takes it: gradients, by the host, then all else."""
    with FakeCuda("cpu") as host:
        network.train()(batch_of(size, "cpu").images).sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)
    assert not host.waits
    with FakeCuda() as cuda:
        optim = build_optimizer(on_cuda(network), settings.optimizer)
        with autocast(enabled=settings.precision == "bf16"):
            loss, values = objective(network, batch_of(size), 1000)
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        assert gradient_norm(network).is_cuda and loss.requires_grad
        optim.step()
        assert all(value.is_cuda for value in values.values())
    return cuda.waits


# The steps of the three trainings


@pytest.mark.parametrize(
    "recipe, on", [*((recipe, "crf") for recipe in RECIPES), ("shapes", "softmax"), ("shapes", "both")]
)
def test_a_dsrg_step_waits_once_for_growth(recipe, on):
    params = params_of(recipe)
    grow = params.grow.model_copy(update={"on": on})
    supervisor = Supervisor(crf=params.crf.train, grow=grow, boundary_loss=True)
    with FakeCuda():
        segmenter = untrained(params, "dsrg", classes=CLASSES)
    objective = dsrg_criterion(params.dsrg, supervisor=supervisor)
    assert waits_of_a_step(segmenter, objective, params.dsrg, size=params.data.size) == GROWTH


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_classifiers_step_waits_for_nothing(recipe):
    params = params_of(recipe)
    with FakeCuda():
        classifier = untrained(params, "cam", classes=CLASSES)
    objective = cam_criterion(params.cam)
    assert not waits_of_a_step(classifier, objective, params.cam, size=params.data.size)


@pytest.mark.parametrize("loss", ["cross_entropy", "balanced"])
def test_a_retraining_step_waits_for_nothing(loss):
    params = params_of("shapes")
    with FakeCuda():
        segmenter = untrained(params, "dsrg", classes=CLASSES)
    objective = retrain_criterion(params.retrain.model_copy(update={"loss": loss}))
    assert not waits_of_a_step(segmenter, objective, params.retrain, size=params.data.size)


# Losses, on the device, and their gradients, see fake_cuda


@pytest.fixture(params=["cuda", "cpu"])
def device(request) -> str:
    return request.param


def maps(device: str, grid: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logits, seeds, present, images."""
    batch = batch_of(8 * (grid - 1) + 1, device)
    logits = torch.zeros(BATCH, CLASSES + 1, grid, grid, device=device, requires_grad=True)
    return logits, batch.labels, batch.present, batch.images


def assert_backward_waits_for_nothing(loss: Tensor, cuda: FakeCuda) -> None:
    if loss.device.type == "cpu":
        cuda.waits.clear()  # on a CPU a loss may look whether it is done
        loss.backward()
    assert not cuda.waits


@pytest.mark.parametrize("clip, gradient", [(None, False), (20.0, True)])
def test_the_losses_of_dsrg_wait_for_nothing(clip, gradient, device):
    with FakeCuda(device) as cuda:
        logits, seeds, _, _ = maps(device)
        probs = smoothed_softmax(logits, min_prob=1e-4)
        loss = seeding_loss(probs, seeds, balanced=True) + seeding_loss(probs, seeds, balanced=False)
        loss = loss + boundary_loss(probs, probs.detach(), ratio_clip=clip, crf_gradient=gradient)
        assert_backward_waits_for_nothing(loss, cuda)


@pytest.mark.parametrize("name", LOSSES)
def test_the_losses_of_other_methods_wait_for_nothing(name, device):
    params = params_of("shapes")
    settings = getattr(params.weak, name).model_dump()
    supervisor = Supervisor(crf=params.crf.train, grow=params.grow, boundary_loss=False)
    if "crf" in signature(LOSSES[name]).parameters:
        settings |= {"crf": supervisor.crf_probs if device == "cuda" else lambda images, probs: probs.detach()}
    with FakeCuda(device) as cuda:
        logits, seeds, present, images = maps(device)
        loss = LOSSES[name](logits, present=present, seeds=seeds, images=images, step=3, **settings).mean()
        assert_backward_waits_for_nothing(loss, cuda)


# Growth and CRF at other sizes


def test_growth_of_whole_images_waits_once():
    with FakeCuda() as cuda:
        seeds = torch.zeros(BATCH, 321, 321, dtype=torch.uint8, device="cuda")
        probs = torch.zeros(BATCH, CLASSES + 1, 321, 321, device="cuda")
        present = torch.ones(BATCH, CLASSES + 1, dtype=torch.bool, device="cuda")
        assert grow(seeds, probs, present, fg_thresh=0.85, bg_thresh=0.99).device == seeds.device
    assert cuda.waits == GROWTH


def test_the_crf_of_whole_images_asks_for_the_size_of_its_lattices(monkeypatch):
    """Their vertices are many times fewer than the bound, so asking pays: once for each of both lattices."""
    kernel = params_of("voc2012-vgg16").crf.test.model_dump()
    min_prob = kernel.pop("min_prob")
    with FakeCuda() as cuda:
        images = torch.zeros(4, 3, 375, 500, dtype=torch.uint8, device="cuda")
        energies = unary_energies(torch.zeros(4, 21, 375, 500, device="cuda"), unary="logp", min_prob=min_prob)
        assert clamped(dense_crf(images, energies, **kernel), min_prob=min_prob).is_cuda
    assert cuda.waits == Counter({"crf_lattice.table_rows: a number": 2})


# Inference: its results are for the host


def pictures() -> list[np.ndarray]:
    return [np.zeros((40, 60, 3), np.uint8), np.zeros((50, 30, 3), np.uint8)]


def test_activation_maps_wait_for_the_squares_of_each_scale():
    params = params_of("voc2012-vgg16")
    with FakeCuda() as cuda:
        classifier = on_cuda(untrained(params, "cam", classes=CLASSES)).eval()
        found = activation_maps(classifier, pictures(), size=65, scales=[0.75, 1.0], flip=True)
        assert found.is_cuda and found.shape == (2, CLASSES, 9, 9)
    assert cuda.waits == Counter({"preprocess.mean_over_looks: copy to the device": 2})


def test_gradient_saliency_asks_for_no_value():
    params = params_of("voc2012-vgg16")
    with FakeCuda("cpu") as host:
        saliency = gradient_saliency(untrained(params, "cam", classes=CLASSES).eval(), pictures(), size=65)
        assert saliency.shape == (2, 9, 9)
    assert not host.waits
    with FakeCuda() as cuda:  # what follows the gradient
        assert shares_below(median3x3(torch.zeros(2, 9, 9, device="cuda"))).is_cuda
    assert not cuda.waits


@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_scales_are_merged_on_the_device(merge):
    settings = PredictParams(**PREDICT | {"merge": merge})
    with FakeCuda() as cuda:
        segmenter = on_cuda(untrained(params_of("shapes"), "dsrg", classes=CLASSES)).eval()
        grids = next(multiscale_logits(segmenter, pictures(), settings, size=65))
        assert merge_scales(grids, (40, 60), settings).is_cuda
    squares = len(settings.scales)  # come from the host
    assert cuda.waits == Counter({"predict._grid: copy to the device": squares})


# The tests' own device


def test_mixed_devices_are_refused():
    with FakeCuda(), pytest.raises(RuntimeError, match="same device"):
        torch.zeros(3, device="cuda") + torch.zeros(3)
