"""Networks: grids that stay aligned, frozen norms absorbed without a trace, heads and scores."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from dsrg.method.grid import grid_size
from dsrg.networks import backbones
from dsrg.networks.backbones import BACKBONES, Backbone
from dsrg.networks.heads import ASPP, BatchDropout, cam_layers
from dsrg.networks.network import CamClassifier, DeepLab, Normalize, corner_aligned
from helpers.networks import COMMON, HEAD, NORMED, build, draw_norms, without_init

EVERY = [(name, stride) for name in BACKBONES for stride in (8, 16)]


@pytest.fixture
def short_resnet(monkeypatch):
    """ResNet101 with few and narrow blocks, of which every kind is there: for tests that compute."""
    monkeypatch.setattr(torchvision.models, "resnet101", partial(ResNet, Bottleneck, [1, 2, 3, 2], width_per_group=16))


def gradients(network: nn.Module, images: torch.Tensor, *, bf16: bool = False) -> tuple[torch.Tensor, dict]:
    """Output and gradients of every parameter for a fixed random direction of the output."""
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = network(images)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (output.double() * direction).sum().backward()
    return output.detach(), {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


class TestGrid:
    @pytest.mark.parametrize(("name", "stride"), [pair for pair in EVERY if pair[0] != "mobilenet_v2"])
    @pytest.mark.parametrize("classifier", [False, True])
    def test_sizes(self, name, stride, classifier):
        """On torch's meta device, where shapes are computed and nothing else."""
        with torch.device("meta"):
            network = build(name, stride, classifier=classifier)
            for pixels, cells in [(321, 41), (241, 31), (401, 51), (65, 9)]:
                expected = cells if stride == 8 else (cells + 1) // 2
                assert network(torch.empty(1, 3, pixels, 65)).shape == (1, network.channels, expected, 64 // stride + 1)

    @pytest.mark.parametrize("stride", [8, 16])
    @pytest.mark.parametrize("classifier", [False, True])
    @torch.inference_mode()
    def test_sizes_of_mobilenet(self, stride, classifier):
        network = build("mobilenet_v2", stride, classifier=classifier)
        assert network.channels == (1280 if classifier else 320)
        for pixels, cells in [(321, 41), (241, 31), (401, 51)]:
            expected = cells if stride == 8 else (cells + 1) // 2
            assert network(torch.zeros(1, 3, pixels, 17)).shape == (1, network.channels, expected, 16 // stride + 1)

    @pytest.mark.parametrize(("name", "stride"), EVERY)
    @torch.inference_mode()
    def test_cells_lie_symmetrically_on_the_image(self, name, stride, short_resnet):
        """With symmetric kernels a network mirrors its output with its input, if the corners of both grids coincide."""
        network = build(name, stride).double().eval()
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.copy_((parameter + parameter.flip(3)) / 2)
        images = torch.randn(1, 3, 33, 97).double()
        output = network(images)
        assert output.std() > 0
        torch.testing.assert_close(network(images.flip(3)), output.flip(3), rtol=1e-6, atol=1e-9 * float(output.std()))

    @pytest.mark.parametrize("name", NORMED)
    @torch.inference_mode()
    def test_dilated_networks_see_what_torchvisions_strided_ones_see(self, name, short_resnet):
        """Every fourth cell at stride 8, every second at stride 16, is a cell of the plain network at stride 32."""
        torch.manual_seed(0)
        plain = getattr(torchvision.models, name)(norm_layer=FrozenBatchNorm2d)
        draw_norms(plain)
        if name == "mobilenet_v2":
            plain = plain.features[:-1]
        else:
            plain = nn.Sequential(*list(plain.children())[:-2])  # without avgpool and fc
        images = torch.randn(1, 3, 65, 65).double()
        expected = plain.double().eval()(images)
        assert expected.shape[2:] == (3, 3)
        for stride in (8, 16):
            network = without_init(name, stride).double().eval()
            values = list(plain.state_dict().values())  # torchvision's order, under other names
            network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
            step = 32 // stride
            torch.testing.assert_close(network(images)[:, :, ::step, ::step], expected)


class TestFrozenNorms:
    @pytest.mark.parametrize("name", NORMED)
    @pytest.mark.parametrize("stride", [8, 16])
    def test_absorbed_norms_change_neither_outputs_nor_gradients(self, name, stride, monkeypatch, short_resnet):
        """In float64, so that no ReLU falls on the other side of its kink."""
        absorbed = build(name, stride).double()
        monkeypatch.setattr(backbones, "_absorb_norms", lambda network: None)
        monkeypatch.setattr(backbones, "FrozenBatchNorm", FrozenBatchNorm2d)
        plain = build(name, stride).double()
        draw_norms(absorbed)
        plain.load_state_dict(absorbed.state_dict())
        assert [type(module) for module in plain.modules()] != [type(module) for module in absorbed.modules()]
        images = torch.randn(1, 3, 33, 33).double()
        (expected, wanted), (output, got) = gradients(plain, images), gradients(absorbed, images)
        torch.testing.assert_close(output, expected)
        assert got.keys() == wanted.keys() and all(gradient.abs().max() > 0 for gradient in wanted.values())
        for key in wanted:
            torch.testing.assert_close(got[key], wanted[key], msg=lambda text, key=key: f"{key}: {text}")

    @pytest.mark.parametrize(("name", "stride"), EVERY)
    def test_gradients_in_bf16_are_those_in_fp32_but_for_rounding(self, name, stride, short_resnet):
        """Measured 0.980 or more of the whole, 0.81 of the worst layer, norms within 17 %."""
        network = build(name, stride)
        draw_norms(network)
        images = torch.randn(2, 3, 65, 65)
        (_, exact), (_, rounded) = gradients(network, images), gradients(network, images, bf16=True)
        whole = [torch.cat([gradient.flatten() for gradient in every.values()]) for every in (exact, rounded)]
        assert F.cosine_similarity(*whole, dim=0) > 0.96
        for key, gradient in exact.items():
            assert F.cosine_similarity(rounded[key].flatten(), gradient.flatten(), dim=0) > 0.65, key
            assert 0.7 < rounded[key].norm() / gradient.norm() < 1.4, key

    def test_a_random_resnet101_stays_within_bounds(self):
        """Its frozen norms do nothing against random weights; unscaled, 33 blocks would reach a deviation of 1e5."""
        torch.manual_seed(0)
        backbone = BACKBONES["resnet101"].build(output_stride=8, classifier=False).eval()
        with torch.no_grad():
            features = backbone(torch.randn(1, 3, 65, 65))
        assert 0.1 < features.std() < 20

    @pytest.mark.parametrize("stride", [8, 16])
    @torch.inference_mode()
    def test_strided_and_dilated_depthwise_convolutions_are_left_out_of_bf16(self, stride):
        network, kinds = build("mobilenet_v2", stride), {True: [], False: []}
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                slow = module.groups > 1 and (module.dilation != (1, 1) or module.stride != (1, 1))
                module.register_forward_hook(lambda _, given, output, kind=kinds[slow]: kind.append(output.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            network(torch.zeros(1, 3, 33, 33))
        assert set(kinds[True]) == {torch.float32} and set(kinds[False]) == {torch.bfloat16}


class TestHeads:
    @pytest.mark.parametrize("layers", [1, 2, 3])
    def test_aspp_is_the_sum_of_its_branches(self, layers):
        head = ASPP(6, 4, rates=[1, 3, 5], channels=8, layers=layers, dropout=0.5, init_std=0.01).eval()
        features = torch.randn(2, 6, 9, 11)
        expected = torch.zeros(2, 4, 9, 11)
        for branch, rate in zip(head.branches, [1, 3, 5], strict=True):
            convolutions = [module for module in branch if isinstance(module, nn.Conv2d)]
            assert [conv.kernel_size[0] for conv in convolutions] == [3, 1, 1][:layers]
            assert convolutions[0].dilation == (rate, rate)
            hidden = features
            for place, conv in enumerate(convolutions):
                hidden = F.conv2d(hidden, conv.weight, conv.bias, padding=conv.padding, dilation=conv.dilation)
                hidden = hidden.relu() if place < layers - 1 else hidden
            expected += hidden
        torch.testing.assert_close(head(features), expected)

    @pytest.mark.parametrize(("layers", "dropouts"), [(1, 1), (2, 1), (3, 2)])
    def test_dropout_works_in_training_alone(self, layers, dropouts):
        head = ASPP(6, 4, rates=[1, 2], channels=64, layers=layers, dropout=0.5, init_std=0.01)
        assert sum(isinstance(module, BatchDropout) for module in head.modules()) == 2 * dropouts
        features = torch.randn(1, 6, 5, 5)
        assert not torch.equal(head(features), head(features))
        assert torch.equal(head.eval()(features), head(features))

    @pytest.mark.parametrize("layers", [1, 2, 3])
    def test_the_last_layer_starts_with_the_deviation_asked_for(self, layers):
        head = ASPP(64, 20, rates=[1, 2], channels=64, layers=layers, dropout=0.5, init_std=0.25)
        last = [head.get_submodule(name) for name in head.last_layers]
        assert [branch[-1] for branch in head.branches] == last
        for conv in last:
            assert conv.out_channels == 20 and conv.weight.detach().std() == pytest.approx(0.25, rel=0.1)
            assert not conv.bias.any()

    @pytest.mark.parametrize("layers", [2, 3])
    @pytest.mark.parametrize("rms", [1.0, 24.0])
    def test_large_features_start_like_small_ones(self, layers, rms):
        """Caffe's VGG16 has features of about 24, on which Kaiming's rule alone starts with a loss of 10."""
        head = ASPP(64, 20, rates=[1, 2], channels=256, layers=layers, dropout=0.5, init_std=0.01, features_rms=rms)
        scores = head.eval()(rms * torch.randn(4, 64, 9, 9))
        assert 0.1 < scores.std() < 1

    def test_one_layer_has_nothing_to_divide(self):
        """fc8 alone starts with init_std, whatever the features are."""
        head = ASPP(64, 20, rates=[1], channels=8, layers=1, dropout=0.5, init_std=0.25, features_rms=24.0)
        assert head.branches[0][-1].weight.detach().std() == pytest.approx(0.25, rel=0.1)


class TestSegmenter:
    @pytest.mark.parametrize("stride", [8, 16])
    @pytest.mark.parametrize("shape", [(65, 65), (73, 121), (9, 41)])
    @torch.inference_mode()
    def test_logits_are_on_the_grid(self, stride, shape):
        network = DeepLab(classes=3, backbone="vgg_mini", output_stride=stride, **HEAD)
        logits = network(torch.zeros(2, 3, *shape, dtype=torch.uint8))
        assert logits.shape == (2, 4, grid_size(shape[0]), grid_size(shape[1])) and logits.dtype == torch.float32

    @pytest.mark.parametrize("size", [65, 73, 121, 241])
    def test_stride_16_is_brought_to_the_grid_where_it_belongs(self, size, monkeypatch):
        """A network that reports a slope at every 16th pixel has it on every 8th."""

        class Slope(nn.Module):
            channels = 1

            def forward(self, images):
                return images[:, :1, ::16, ::16]

        monkeypatch.setitem(BACKBONES, "slope", Backbone(lambda **options: Slope()))
        network = DeepLab(classes=1, backbone="slope", output_stride=16, **HEAD)
        network.normalize, network.head = nn.Identity(), nn.Identity()
        images = torch.arange(float(size)).expand(1, 3, size, size)
        within = slice(0, (size - 1) // 16 * 2 + 1)  # beyond the last cell nothing is known
        torch.testing.assert_close(network(images)[..., within], images[:, :1, ::8, ::8][..., within])

    @pytest.mark.parametrize(("size", "cells"), [(65, 5), (73, 5), (73, 6), (121, 8), (121, 9), (241, 16)])
    def test_corner_aligned_keeps_a_slope(self, size, cells):
        """Cells 16 pixels apart from the first on; some backbones have one more at odd sizes, beyond the image."""
        slope = torch.arange(cells) * 16.0
        maps = (slope[:, None] + 1000 * slope).expand(1, 2, cells, cells)
        aligned = corner_aligned(maps, stride=16, height=size, width=size)
        grid = grid_size(size)
        on_grid = F.interpolate(aligned, (grid, grid), mode="bilinear", align_corners=True)
        expected = torch.arange(grid) * 8.0
        if 16 * (cells - 1) < size - 1:
            expected[-1] = expected[-2]  # nothing is known beyond the last cell
        torch.testing.assert_close(on_grid[0, 0], expected[:, None] + 1000 * expected)

    @pytest.mark.parametrize(
        ("convention", "expected"),
        [
            ("torchvision", [(0 / 255 - 0.485) / 0.229, (124 / 255 - 0.456) / 0.224, (255 / 255 - 0.406) / 0.225]),
            ("caffe", [255 - 104, 124 - 117, 0 - 123]),  # blue, green, red
            ("caffe_rgb", [0 - 123, 124 - 117, 255 - 104]),
        ],
    )
    def test_plain_pictures_go_in(self, convention, expected):
        """The network's own first step turns RGB in 0..255 into what its weights were trained on."""
        images = torch.tensor([0, 124, 255], dtype=torch.uint8).view(1, 3, 1, 1)
        torch.testing.assert_close(Normalize(convention)(images).flatten(), torch.tensor(expected).float())
        for network in (
            DeepLab(classes=1, backbone="vgg_mini", output_stride=8, **HEAD | {"input": convention}),
            CamClassifier(classes=1, backbone="vgg_mini", output_stride=8, **COMMON | {"input": convention}),
        ):
            assert "normalize.mean" not in network.state_dict()
            torch.testing.assert_close(network.normalize(images).flatten(), torch.tensor(expected).float())


class TestClassifier:
    @pytest.mark.parametrize("stride", [8, 16])
    @torch.inference_mode()
    def test_score_is_the_mean_of_the_map(self, stride):
        classifier = CamClassifier(classes=3, backbone="vgg_mini", output_stride=stride, **COMMON).eval()
        images = torch.randint(0, 256, (2, 3, 65, 65), dtype=torch.uint8)
        maps = classifier.maps(images)
        assert maps.shape == (2, 3, 64 // stride + 1, 64 // stride + 1)
        torch.testing.assert_close(classifier(images), maps.mean(dim=(2, 3)))
        assert torch.equal(classifier.maps_of(classifier.backbone(classifier.normalize(images))), maps)
        assert classifier.head.bias is None and maps.min() < 0 < maps.max()

    def test_secs_layers_by_hand(self):
        """Negative activations of the last one count; all start from one deviation, biases from zero."""
        layers = cam_layers(6, channels=(64, 32), dropout=0.5, init_std=0.25).eval()
        first, last = (module for module in layers if isinstance(module, nn.Conv2d))
        for conv in (first, last):
            assert conv.weight.detach().std() == pytest.approx(0.25, rel=0.1) and not conv.bias.any()
        features = torch.randn(2, 6, 5, 5)
        hidden = F.conv2d(features, first.weight, first.bias, padding=1).relu()
        expected = F.conv2d(hidden, last.weight, last.bias, padding=1)
        assert expected.min() < 0
        torch.testing.assert_close(layers(features), expected)

    @pytest.mark.parametrize("name", ["vgg_mini", "mobilenet_v2"])
    def test_dropout_and_first_deviation_reach_every_backbone(self, name):
        make = partial(CamClassifier, classes=20, backbone=name, output_stride=16, input="torchvision")
        images = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)
        network = make(dropout=0.5, init_std=0.25)
        assert network.head.weight.detach().std() == pytest.approx(0.25, rel=0.1)
        assert not torch.equal(network(images), network(images))
        assert torch.equal(network.eval()(images), network(images))
        network = make(dropout=0.0, init_std=0.25)
        assert torch.equal(network(images), network(images))
