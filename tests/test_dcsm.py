"""DCSM's maps: guided gradients by hand, differences of classes, and maps of images."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dsrg.errors import InputError
from dsrg.inference.cams import tag_maps
from dsrg.inference.dcsm import dcsm_maps, distinct_maps, guided, layer_outputs
from helpers import networks
from helpers.data import picture

LOOK = {"size": 33, "scales": [1.0], "flip": False, "candidates": 4}
classifier = partial(networks.classifier, classes=5, init_std=0.5)


def literal_maps(strengths: Tensor) -> Tensor:
    """Of (L, K, h, w), all of them candidates."""

    def saturated(one: np.ndarray) -> np.ndarray:
        return np.tanh(3 * one / (one.max() if one.max() > 0 else 1))

    total = np.zeros(strengths.shape[1:])
    for layer in strengths.numpy():
        for own in range(len(layer)):
            for other in range(len(layer)):
                if other != own:
                    total[own] += np.maximum(saturated(layer[own] - layer[other]), 0)
    return torch.from_numpy(np.stack([saturated(one) for one in total])).float()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 100))
def test_each_class_less_the_others(seed, scale):
    strengths = torch.rand(1, 2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    all_three = torch.ones(1, 3, dtype=torch.bool)
    found = distinct_maps(strengths, all_three)
    torch.testing.assert_close(found[0], literal_maps(strengths[0]))
    torch.testing.assert_close(distinct_maps(scale * strengths, all_three), found, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(distinct_maps(strengths[:, :, [1, 0, 2]], all_three), found[:, [1, 0, 2]])
    # who is no candidate has no map and takes nothing from others
    two = distinct_maps(strengths, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(two[:, :2], distinct_maps(strengths[:, :, :2], all_three[:, :2]))
    assert not two[:, 2].any()


def test_guided_gradients_by_hand():
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(inplace=True), nn.Conv2d(2, 1, 1, bias=False))
    network[0].weight.data = torch.tensor([1.0, 1.0]).view(2, 1, 1, 1)
    network[2].weight.data = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1)
    values = torch.tensor([2.0, -1.0]).view(1, 1, 1, 2).requires_grad_()
    plain = torch.autograd.grad(network(values).sum(), values)[0]
    with guided(network):
        (found,) = torch.autograd.grad(network(values).sum(), values)
    assert plain.flatten().tolist() == [1, 0] and found.flatten().tolist() == [3, 0]  # what pulls down is left out
    assert torch.equal(torch.autograd.grad(network(values).sum(), values)[0], plain), "as before afterwards"
    with pytest.raises(InputError, match="this backbone has none; use maps: cam"), guided(nn.Sequential(nn.SiLU())):
        pass


def test_layers_of_vgg16_are_conv3_1_to_conv5_3():
    network = classifier("vgg16")
    with guided(network):
        layers, maps = layer_outputs(network, torch.zeros(1, 3, 33, 33, dtype=torch.uint8), finest=9)
    assert [one.shape[1] for one in layers] == [256] * 3 + [512] * 6 and maps.shape == (1, 5, 5, 5)


@pytest.mark.parametrize("backbone, stride", [("vgg_mini", 8), ("mobilenet_v2", 16)])
def test_maps_of_images(backbone, stride):
    network, images = classifier(backbone, stride=stride), [picture(40, 60, seed=6), picture(33, 20, seed=7)]
    tags = torch.tensor([[True, True, False, True, False, False], [True, False, False, False, False, False]])
    found = dcsm_maps(network, images, tags, **LOOK)
    assert found.shape == (2, 5, 5, 5) and 0 <= found.min() and found.max() <= 1
    shown = (found > 0).flatten(2).any(dim=2)
    assert shown[0, [0, 2]].all() and (shown.sum(dim=1) <= 4).all()
    alone = torch.cat([dcsm_maps(network, [one], tags[[place]], **LOOK) for place, one in enumerate(images)])
    torch.testing.assert_close(found, alone, rtol=1e-2, atol=1e-3)
    stored = tag_maps(network, images, tags, **LOOK)
    assert stored[0, 0].max() == 1 and not stored[0, 1].any() and not stored[1].any()
    both = dcsm_maps(network, images, tags, **LOOK | {"flip": True})
    mirrored = dcsm_maps(network, [np.ascontiguousarray(one[:, ::-1]) for one in images], tags, **LOOK)
    torch.testing.assert_close(both, (found + mirrored.flip(3)) / 2, rtol=0, atol=0.1)


def test_one_candidate_alone_has_nothing_to_differ_from():
    tags = torch.tensor([[True, False, True, False, False, False]])
    assert not dcsm_maps(classifier(), [picture(33, 33, seed=1)], tags, **LOOK | {"candidates": 1}).any()
