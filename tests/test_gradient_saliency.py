"""dsrg.inference.gradient_saliency: how much a classifier's scores depend on each cell, as ranks."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsrg.inference.gradient_saliency import gradient_saliency, score_gradient, shares_below
from dsrg.inference.preprocess import warp_to_square
from dsrg.networks.network import CamClassifier
from helpers import networks
from helpers.data import picture

PICTURES = [picture(40, 60, seed=1), picture(33, 20, seed=2), picture(65, 65, seed=3)]


classifier = partial(networks.classifier, classes=3, init_std=0.05)


def literal_saliency(network: CamClassifier, image: np.ndarray, conv: nn.Module, *, size: int) -> np.ndarray:
    """One image by the book: every score's own backward pass, loops over pixels; ranks by comparing all pairs."""
    seen = []
    handle = conv.register_forward_hook(lambda module, given, output: seen.append(output) or output.clone())
    scores = network(warp_to_square([image], size))[0]
    handle.remove()
    gradient = sum(torch.autograd.grad(score, seen, retain_graph=True)[0] for score in scores)[0].numpy()
    strength = np.abs(gradient).max(axis=0)
    height, width = strength.shape
    smooth = np.empty_like(strength)
    for y in range(height):
        for x in range(width):
            around = [
                strength[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            ]
            smooth[y, x] = sorted(around)[4]
    ranks = np.empty(smooth.size)
    for place, value in enumerate(smooth.flat):
        ranks[place] = sum(other < value for other in smooth.flat) + np.sum(smooth.flat[:place] == value)
    return ((ranks + 0.5) / smooth.size).reshape(height, width)


@pytest.mark.parametrize("stride", [8, 16])
def test_saliency_equals_the_literal_one(stride):
    network = classifier(stride=stride)
    conv = network.backbone[18]  # the fourth block's first
    assert isinstance(conv, nn.Conv2d)
    saliency = gradient_saliency(network, PICTURES, size=73)
    assert saliency.shape == (3, 10, 10) and saliency.dtype == torch.float32
    for image, own in zip(PICTURES, saliency, strict=True):
        expected = literal_saliency(network, image, conv, size=73)
        np.testing.assert_allclose(own, expected, atol=0.0101)  # cells that differ by rounding may change places


@pytest.mark.parametrize(
    ("backbone", "stride", "name"),
    [
        ("vgg16", 8, "17"),  # conv4_1, as SEC
        ("vgg16", 16, "17"),
        ("resnet101", 8, "layer2"),
        ("resnet101", 16, "layer2"),
        ("mobilenet_v2", 8, "4"),
        ("mobilenet_v2", 16, "4"),
    ],
)
def test_gradients_are_taken_at_the_first_convolution_on_the_grid(backbone, stride, name):
    device = "cpu" if backbone == "mobilenet_v2" else "meta"  # shapes alone, where the network can do with them
    with torch.device(device):
        network = classifier(backbone, stride=stride)
    calls = []
    for child, layer in network.backbone.named_children():
        layer.register_forward_hook(
            lambda _, given, out, child=child: calls.append((child, out.shape, out.requires_grad))
        )
    gradient = score_gradient(network, torch.empty(1, 3, 41, 41, dtype=torch.uint8, device=device), grid=6)
    place = [child for child, _, _ in calls].index(name)
    assert gradient.shape == calls[place][1] and gradient.shape[2:] == (6, 6)
    # nothing is recorded up to there, everything from there on
    assert [records for _, _, records in calls] == [n > place for n in range(len(calls))]


def test_the_callers_network_and_gradient_mode_are_left_alone():
    network = classifier()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        first = gradient_saliency(network, PICTURES, size=65)
        assert not torch.is_grad_enabled()
    assert not first.requires_grad and all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(gradient_saliency(network, PICTURES, size=65), first)
    for image, own in zip(PICTURES, first, strict=True):
        torch.testing.assert_close(gradient_saliency(network, [image], size=65)[0], own)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees():
    network = classifier()
    expected = gradient_saliency(network, PICTURES, size=65)
    found = gradient_saliency(network.cuda(), PICTURES, size=65)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, atol=2 / 81, rtol=0)  # close values may swap their ranks


# The pieces


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.floats(0, 1))
def test_a_threshold_takes_its_share_and_the_lowest(values, share):
    maps = torch.tensor(values, dtype=torch.float32).view(1, 1, -1)
    shares = shares_below(maps)
    assert 0 < shares.min() and shares.max() < 1 and len(shares.unique()) == len(values)
    taken = shares < share
    assert abs(int(taken.sum()) - share * len(values)) <= 0.5 + 1e-4
    if taken.any() and not taken.all():
        assert maps[taken].max() <= maps[~taken].min()


def test_a_tenth_of_secs_grid_is_168_cells():
    shares = shares_below(torch.rand(2, 41, 41, generator=torch.Generator().manual_seed(0)))
    for stored in (shares, shares.half().float()):  # seeds.h5 holds float16
        assert (stored < 0.1).sum(dim=(1, 2)).tolist() == [168, 168]
