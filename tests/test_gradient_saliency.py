"""dsrg.inference.gradient_saliency: how much a classifier's scores depend on each cell, as ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsrg.inference.gradient_saliency import gradient_saliency, median3x3, score_gradient, shares_below
from dsrg.inference.preprocess import warp_to_square
from dsrg.networks.backbones import BACKBONES, Backbone
from dsrg.networks.network import CamClassifier
from helpers.data import picture

PICTURES = [picture(40, 60, seed=1), picture(33, 20, seed=2), picture(65, 65, seed=3)]


def classifier(backbone: str = "vgg_mini", *, stride: int = 8) -> CamClassifier:
    torch.manual_seed(0)
    return CamClassifier(
        classes=3, backbone=backbone, output_stride=stride, input="torchvision", dropout=0.5, init_std=0.05
    ).eval()


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


class Square(nn.Module):
    def forward(self, inputs):
        return inputs**2


@pytest.fixture
def red_detector(monkeypatch):
    """Scores w * mean of (red at every eighth pixel) squared: their gradient in a cell is 2 w red / cells."""

    def make(*weights: float) -> CamClassifier:
        convolution = nn.Conv2d(3, 1, 1, stride=8, bias=False)
        convolution.weight.data[:] = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
        chain = nn.Sequential(convolution, Square())
        chain.channels = 1
        monkeypatch.setitem(BACKBONES, "red", Backbone(lambda **options: chain))
        network = CamClassifier(
            classes=len(weights), backbone="red", output_stride=8, input="torchvision", dropout=0.0, init_std=0.01
        )
        network.normalize = Plain()
        network.head.weight.data[:] = torch.tensor(weights).view(-1, 1, 1, 1)
        return network.eval()

    return make


class Plain(nn.Module):
    def forward(self, images):
        return images.float()


def test_gradient_by_hand(red_detector):
    images = torch.randint(0, 256, (2, 3, 33, 33), dtype=torch.uint8)
    red = images[:, :1, ::8, ::8].float()
    for weights in [(0.5,), (0.5, 3.0), (2.0, -2.0)]:
        gradient = score_gradient(red_detector(*weights), images, grid=5)
        torch.testing.assert_close(gradient, 2 * sum(weights) * red / 25)


@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_the_object_is_salient_and_the_rest_background(red_detector, weight):
    """A red disc on a ground that reddens a little towards the bottom."""
    rows, columns = np.mgrid[:65, :65]
    image = np.zeros((65, 65, 3), np.uint8)
    image[..., 0] = rows // 8
    disc = (rows - 24) ** 2 + (columns - 32) ** 2 < 20**2
    image[disc, 0] = 200
    saliency = gradient_saliency(red_detector(weight), [image], size=65)[0]
    inside = torch.from_numpy(disc[::8, ::8])
    assert saliency[inside].min() > saliency[~inside].max()
    background = saliency < 0.25
    assert background.sum() == round(0.25 * 81) and background[0].all() and not background[inside].any()


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


def test_median_by_hand():
    """The lone 9 goes, the edge of a plane stays; beyond the picture its outermost pixels go on."""
    maps = torch.tensor([[[0.0, 0, 0, 5], [0, 9, 0, 5], [0, 0, 0, 5], [7, 0, 0, 5]]])
    assert median3x3(maps)[0].tolist() == [[0, 0, 0, 5], [0, 0, 0, 5], [0, 0, 0, 5], [0, 0, 0, 5]]
    corner = torch.tensor([[[7.0, 7], [0, 0]]])
    assert median3x3(corner)[0].tolist() == [[7, 7], [0, 0]]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.floats(0, 1),
)
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
