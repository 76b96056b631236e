"""Networks: grids that stay aligned, frozen norms absorbed without a trace, weights that fit or are refused."""

import os
import pickle
from functools import partial
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision
import toy  # noqa: F401  one thread
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from dsrg.errors import InputError
from dsrg.networks import backbones
from dsrg.networks.backbones import BACKBONES, Backbone
from dsrg.networks.heads import ParallelBranches, cam_layers
from dsrg.networks.network import Classifier, Normalise, Segmenter, corner_aligned, grid_size
from dsrg.networks.weights import (
    adopt_backbone,
    decimated,
    initial_classifier,
    initial_segmenter,
    load_backbone_weights,
    load_head_weights,
    read_weights,
)

COMMON = {"input": "torchvision", "dropout": 0.0, "init_std": 0.01}
HEAD = {"head": "aspp", "head_channels": 8, "head_layers": 2, "rates": [1, 2], **COMMON}
EVERY = [(name, stride) for name in BACKBONES for stride in (8, 16)]
NORMED = ["resnet101", "mobilenet_v2"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def short_resnet(monkeypatch):
    """ResNet101 with few and narrow blocks, of which every kind is there: for tests that compute."""
    monkeypatch.setattr(torchvision.models, "resnet101", partial(ResNet, Bottleneck, [1, 2, 3, 2], width_per_group=16))


def build(name: str, stride: int, *, classifier: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return BACKBONES[name].build(output_stride=stride, classifier=classifier)


def without_init(name: str, stride: int = 8, *, classifier: bool = False) -> nn.Module:
    """A backbone with memory, but no values: for weights that are loaded, or shapes."""
    with torch.device("meta"):
        return build(name, stride, classifier=classifier).to_empty(device="cpu")


def draw_norms(network: nn.Module) -> None:
    """Frozen norms with statistics as a trained network may have them, not 0 and 1."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


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
            plain = nn.Sequential(plain.conv1, plain.bn1, plain.relu, plain.maxpool, *children(plain, "layer"))
        images = torch.randn(1, 3, 65, 65).double()
        expected = plain.double().eval()(images)
        assert expected.shape[2:] == (3, 3)
        for stride in (8, 16):
            network = without_init(name, stride).double().eval()
            values = list(plain.state_dict().values())  # torchvision's order, under other names
            network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
            step = 32 // stride
            torch.testing.assert_close(network(images)[:, :, ::step, ::step], expected)

    def test_vgg16_is_deeplabs(self):
        """Released train-s.prototxt: pool4 and pool5 without stride, conv5 dilated by 2, an average pool at the end."""
        with torch.device("meta"):
            network = build("vgg16", 8)
        described = []
        for module in network:
            match module:
                case nn.Conv2d():
                    assert module.kernel_size == (3, 3) and module.padding == module.dilation
                    described.append(f"{module.out_channels}d{module.dilation[0]}")
                case nn.MaxPool2d():
                    assert module.kernel_size == 3 and module.padding == 1
                    described.append(f"max{module.stride}")
                case nn.AvgPool2d():
                    described.append(f"mean{module.stride}")
        assert " ".join(described) == (
            "64d1 64d1 max2 128d1 128d1 max2 256d1 256d1 256d1 max2 512d1 512d1 512d1 max1 512d2 512d2 512d2 max1 mean1"
        )

    def test_grid_size(self):
        assert [grid_size(pixels) for pixels in (1, 9, 241, 321, 401)] == [1, 2, 31, 41, 51]


def children(network: nn.Module, start: str) -> list[nn.Module]:
    return [child for name, child in network.named_children() if name.startswith(start)]


class TestFrozenNorms:
    @pytest.mark.parametrize("name", NORMED)
    @pytest.mark.parametrize("stride", [8, 16])
    def test_absorbed_norms_change_neither_outputs_nor_gradients(self, name, stride, monkeypatch, short_resnet):
        """In float64, so that no ReLU falls on the other side of its kink."""
        absorbed = build(name, stride).double()
        monkeypatch.setattr(backbones, "_absorb_norms", lambda network: None)
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

    @pytest.mark.parametrize("name", NORMED)
    def test_norms_are_no_parameters_and_stay_with_their_convolution(self, name):
        network = without_init(name)
        norms = [module for module in network.modules() if isinstance(module, FrozenBatchNorm2d)]
        convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        assert [conv.norms[0] for conv in convolutions] == norms
        assert all(conv.out_channels == len(conv.norms[0].weight) for conv in convolutions)
        assert all(parameter.ndim == 4 for parameter in network.parameters())

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
        head = ParallelBranches(6, 4, rates=[1, 3, 5], channels=8, layers=layers, dropout=0.5, init_std=0.01).eval()
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
        head = ParallelBranches(6, 4, rates=[1, 2], channels=64, layers=layers, dropout=0.5, init_std=0.01)
        assert sum(isinstance(module, nn.Dropout) for module in head.modules()) == 2 * dropouts
        features = torch.randn(1, 6, 5, 5)
        assert not torch.equal(head(features), head(features))
        assert torch.equal(head.eval()(features), head(features))

    @pytest.mark.parametrize("layers", [1, 2, 3])
    def test_the_last_layer_starts_with_the_deviation_asked_for(self, layers):
        head = ParallelBranches(64, 20, rates=[1, 2], channels=64, layers=layers, dropout=0.5, init_std=0.25)
        last = [head.get_submodule(name) for name in head.last_layers]
        assert [branch[-1] for branch in head.branches] == last
        for conv in last:
            assert conv.out_channels == 20 and conv.weight.detach().std() == pytest.approx(0.25, rel=0.1)
            assert not conv.bias.any()

    def test_one_rate_is_a_largefov_and_several_are_none(self):
        with torch.device("meta"):
            make = partial(Segmenter, classes=2, backbone="vgg_mini", output_stride=8)
            assert len(make(**{**HEAD, "head": "largefov", "rates": [12]}).head.branches) == 1
            with pytest.raises(ValueError, match="one branch"):
                make(**{**HEAD, "head": "largefov"})


class TestSegmenter:
    @pytest.mark.parametrize("stride", [8, 16])
    @pytest.mark.parametrize("shape", [(65, 65), (73, 121), (9, 41)])
    @torch.inference_mode()
    def test_logits_are_on_the_grid(self, stride, shape):
        network = Segmenter(classes=3, backbone="vgg_mini", output_stride=stride, **HEAD)
        logits = network(torch.zeros(2, 3, *shape, dtype=torch.uint8))
        assert logits.shape == (2, 4, grid_size(shape[0]), grid_size(shape[1])) and logits.dtype == torch.float32

    @pytest.mark.parametrize(("name", "layers"), [("vgg_mini", 2), ("vgg16", 3), ("resnet101", 1)])
    def test_sizes_of_the_paper(self, name, layers):
        with torch.device("meta"):
            network = Segmenter(classes=20, backbone=name, output_stride=8, **HEAD | {"head_layers": layers})
            for pixels, cells in [(321, 41), (241, 31), (401, 51)]:
                images = torch.empty(1, 3, pixels, pixels, dtype=torch.uint8)
                assert network(images).shape == (1, 21, cells, cells)

    @pytest.mark.parametrize("size", [65, 73, 121, 241])
    def test_stride_16_is_brought_to_the_grid_where_it_belongs(self, size, monkeypatch):
        """A network that reports a slope at every 16th pixel has it on every 8th."""

        class Slope(nn.Module):
            channels = 1

            def forward(self, images):
                return images[:, :1, ::16, ::16]

        monkeypatch.setitem(BACKBONES, "slope", Backbone(lambda **options: Slope()))
        network = Segmenter(classes=1, backbone="slope", output_stride=16, **HEAD)
        network.normalise, network.head = nn.Identity(), nn.Identity()
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
        ],
    )
    def test_plain_pictures_go_in(self, convention, expected):
        """The network's own first step turns RGB in 0..255 into what its weights were trained on."""
        images = torch.tensor([0, 124, 255], dtype=torch.uint8).view(1, 3, 1, 1)
        torch.testing.assert_close(Normalise(convention)(images).flatten(), torch.tensor(expected).float())
        for network in (
            Segmenter(classes=1, backbone="vgg_mini", output_stride=8, **HEAD | {"input": convention}),
            Classifier(classes=1, backbone="vgg_mini", output_stride=8, **COMMON | {"input": convention}),
        ):
            assert "normalise.mean" not in network.state_dict()
            torch.testing.assert_close(network.normalise(images).flatten(), torch.tensor(expected).float())


class TestClassifier:
    @pytest.mark.parametrize("stride", [8, 16])
    @torch.inference_mode()
    def test_score_is_the_mean_of_the_map(self, stride):
        classifier = Classifier(classes=3, backbone="vgg_mini", output_stride=stride, **COMMON).eval()
        images = torch.randint(0, 256, (2, 3, 65, 65), dtype=torch.uint8)
        maps = classifier.maps(images)
        assert maps.shape == (2, 3, 64 // stride + 1, 64 // stride + 1)
        torch.testing.assert_close(classifier(images), maps.mean(dim=(2, 3)))
        assert torch.equal(classifier.maps_of(classifier.backbone(classifier.normalise(images))), maps)
        assert classifier.head.bias is None and maps.min() < 0 < maps.max()

    def test_vgg16_is_secs(self):
        """Released foreground/deploy.prototxt: no pool4, pool5 or dilation; fc6_CAM, ReLU, fc7_CAM without one."""
        with torch.device("meta"):
            network = Classifier(classes=20, backbone="vgg16", output_stride=8, **COMMON | {"dropout": 0.5})
        chain = [*network.backbone, *network.inner, network.head]
        names = {nn.ReLU: "relu", nn.MaxPool2d: "pool", nn.Dropout: "drop", nn.Identity: ""}
        described = [
            f"{module.out_channels}k{module.kernel_size[0]}d{module.dilation[0]}"
            if isinstance(module, nn.Conv2d)
            else names[type(module)]
            for module in chain
        ]
        blocks = [(2, 64, "pool"), (2, 128, "pool"), (3, 256, "pool"), (3, 512, ""), (3, 512, "")]
        expected = [text for n, width, end in blocks for text in [f"{width}k3d1", "relu"] * n + [end]]
        assert described == expected + ["1024k3d1", "relu", "drop", "1024k3d1", "drop", "20k1d1"]
        assert {module.p for module in network.inner if isinstance(module, nn.Dropout)} == {0.5}

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
        make = partial(Classifier, classes=20, backbone=name, output_stride=16, input="torchvision")
        images = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)
        network = make(dropout=0.5, init_std=0.25)
        assert network.head.weight.detach().std() == pytest.approx(0.25, rel=0.1)
        assert not torch.equal(network(images), network(images))
        assert torch.equal(network.eval()(images), network(images))
        network = make(dropout=0.0, init_std=0.25)
        assert torch.equal(network(images), network(images))


def torchvision_state(name: str) -> dict[str, torch.Tensor]:
    """A state dict with the names and shapes of torchvision's network; every tensor has a value of its own."""
    with torch.device("meta"):
        state = getattr(torchvision.models, name)(weights=None).state_dict()
    # one number each, seen in the tensor's shape, so that the file is small
    return {key: torch.tensor(float(n)).expand(value.shape) for n, (key, value) in enumerate(state.items(), 1)}


def random_caffe_state(width: int, *, rows: int = 3) -> dict[str, torch.Tensor]:
    """VGG16 under the names of Caffe's layers; fc6 sees rows x rows places. Activations neither vanish nor explode."""
    layers = [("conv1_1", 3, 64, 3), ("conv1_2", 64, 64, 3), ("conv2_1", 64, 128, 3), ("conv2_2", 128, 128, 3)]
    layers += [("conv3_1", 128, 256, 3), ("conv3_2", 256, 256, 3), ("conv3_3", 256, 256, 3), ("conv4_1", 256, 512, 3)]
    layers += [(f"conv{name}", 512, 512, 3) for name in ("4_2", "4_3", "5_1", "5_2", "5_3")]
    layers += [("fc6", 512, width, rows), ("fc7", width, width, 1)]
    state = {}
    for name, inputs, outputs, side in layers:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, side, side) * (2 / (inputs * side**2)) ** 0.5
        state[f"{name}.bias"] = torch.randn(outputs) * 0.1
    return state


def literal_vgg16(images: torch.Tensor, state: dict[str, torch.Tensor], *, released: bool) -> torch.Tensor:
    """Up to conv5_3 and, `released`, through its pools, as train-s.prototxt says; without, as SEC's classifier."""
    blobs = images[:, [2, 1, 0]].float() - torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
    for block, convolutions in [(1, 2), (2, 2), (3, 3), (4, 3), (5, 3)]:
        hole = 2 if block == 5 and released else 1
        for n in range(1, convolutions + 1):
            weight, bias = state[f"conv{block}_{n}.weight"], state[f"conv{block}_{n}.bias"]
            blobs = F.conv2d(blobs, weight, bias, padding=hole, dilation=hole).relu()
        if block <= 3:
            blobs = F.max_pool2d(blobs, 3, stride=2, padding=1)
        elif released:
            blobs = F.max_pool2d(blobs, 3, stride=1, padding=1)
    return F.avg_pool2d(blobs, 3, stride=1, padding=1) if released else blobs


class RunsCode:
    """A pickle of this would make a folder when it is loaded."""

    def __init__(self, folder) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def fill(backbone: nn.Module, path: object, *, name: str) -> None:
    load_backbone_weights(backbone, read_weights(str(path), name=name), name=name, source=str(path))


class TestWeights:
    @staticmethod
    def refusal(path, name="mobilenet_v2") -> str:
        backbone = without_init(name)
        with pytest.raises(InputError) as error:
            fill(backbone, path, name=name)
        assert all(problem.startswith("network.weights: ") for problem in error.value.problems)
        return str(error.value)

    @pytest.mark.parametrize("classifier", [False, True])
    @pytest.mark.parametrize("name", ["vgg16", *NORMED])
    def test_torchvisions_files_fill_every_parameter(self, tmp_path, name, classifier):
        state = torchvision_state(name)
        torch.save(state, tmp_path / "imagenet.pth")
        backbone = without_init(name, classifier=classifier)
        fill(backbone, tmp_path / "imagenet.pth", name=name)
        for key, value in backbone.state_dict().items():
            known = state[key if key in state else f"features.{key}"]
            assert (value == known.flatten()[0]).all(), key

    def test_imagenet_is_torchvisions_file(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        url = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url
        (tmp_path / "hub/checkpoints").mkdir(parents=True)
        state = torchvision_state("mobilenet_v2")
        torch.save(state, tmp_path / "hub/checkpoints" / url.rsplit("/", 1)[-1])
        backbone = without_init("mobilenet_v2")
        fill(backbone, "imagenet", name="mobilenet_v2")
        assert (backbone[0][0].weight == state["features.0.0.weight"].flatten()[0]).all()

    def test_offline_says_where_to_put_the_file(self, tmp_path, monkeypatch):
        def offline(*arguments, **options):
            raise URLError("no route to host")

        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setattr(torchvision.models.MobileNet_V2_Weights, "get_state_dict", offline)
        said = self.refusal("imagenet")
        url = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url
        place = tmp_path / "hub/checkpoints" / url.rsplit("/", 1)[-1]
        assert "no route to host" in said and url in said and str(place) in said

    @pytest.mark.parametrize("content", [b"half a file", pickle.dumps("no weights", protocol=2)])
    def test_a_broken_download_is_no_traceback(self, tmp_path, monkeypatch, content):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        url = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url
        (tmp_path / "hub/checkpoints").mkdir(parents=True)
        (tmp_path / "hub/checkpoints" / url.rsplit("/", 1)[-1]).write_bytes(content)
        assert "network.weights: " in self.refusal("imagenet")

    def test_no_imagenet_weights_for_the_small_network(self):
        assert "there are no ImageNet weights for vgg_mini; use null" in self.refusal("imagenet", name="vgg_mini")

    def test_null_leaves_everything_random(self):
        options = {"classes": 2, "backbone": "vgg_mini", "output_stride": 8}
        for initial, make, more in [(initial_segmenter, Segmenter, HEAD), (initial_classifier, Classifier, COMMON)]:
            torch.manual_seed(0)
            expected = make(**options, **more).state_dict()
            torch.manual_seed(0)
            found = initial(weights=None, **options, **more).state_dict()
            assert all(torch.equal(found[key], value) for key, value in expected.items())

    def test_files_of_other_networks(self, tmp_path):
        path = tmp_path / "other.pth"
        torch.save(torchvision_state("resnet18"), path)
        assert "holds no layer of mobilenet_v2; expected keys like 0.0.weight" in self.refusal(path)
        torch.save(torchvision_state("resnet50"), path)  # every layer fits, but 17 blocks would stay random
        assert "layer3.6.conv1.weight of resnet101 is missing" in self.refusal(path, name="resnet101")

    def test_misshapen_layers_are_all_named(self, tmp_path):
        state = torchvision_state("mobilenet_v2")
        state["features.0.0.weight"] = torch.zeros(32, 1, 3, 3)
        state["features.1.conv.1.weight"] = torch.zeros(8, 32, 1, 1)
        torch.save(state, tmp_path / "grey.pth")
        said = self.refusal(tmp_path / "grey.pth")
        assert "0.0.weight is (32, 1, 3, 3), mobilenet_v2 needs (32, 3, 3, 3)" in said
        assert "1.conv.1.weight is (8, 32, 1, 1)" in said and len(said.splitlines()) == 2

    def test_missing_garbage_and_other_content(self, tmp_path):
        assert "no such file" in self.refusal(tmp_path / "none.pth")
        (tmp_path / "text.pth").write_bytes(b"garbage")
        assert "not a state dict" in self.refusal(tmp_path / "text.pth")
        torch.save({"epoch": 3, "model": torchvision_state("resnet18")}, tmp_path / "checkpoint.pth")
        assert "expected a state dict (names -> tensors)" in self.refusal(tmp_path / "checkpoint.pth")

    def test_a_file_that_would_run_code_is_refused_before_it_does(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        url = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url
        cached = tmp_path / "hub/checkpoints" / url.rsplit("/", 1)[-1]
        cached.parent.mkdir(parents=True)
        torch.save({"weight": RunsCode(tmp_path / "it ran")}, cached)
        assert "not a state dict" in self.refusal(cached)
        assert "network.weights: imagenet" in self.refusal("imagenet")
        assert not (tmp_path / "it ran").exists()
        torch.load(cached, weights_only=False)
        assert (tmp_path / "it ran").exists()  # it was a real one

    @pytest.mark.parametrize("given", ["absolute", "relative", "from a copy"])
    def test_whole_networks_take_their_weights(self, tmp_path, monkeypatch, given):
        """A relative path is found from the copy of the project that dvc makes for an experiment, too."""
        state = torchvision_state("mobilenet_v2")
        torch.save(state, tmp_path / "imagenet.pth")
        (tmp_path / "copy").mkdir()
        monkeypatch.chdir(tmp_path / "copy" if given == "from a copy" else tmp_path)
        monkeypatch.setenv("DVC_ROOT", str(tmp_path))
        weights = str(tmp_path / "imagenet.pth") if given == "absolute" else "imagenet.pth"
        options = {"classes": 2, "backbone": "mobilenet_v2", "output_stride": 16, "weights": weights}
        for network in (initial_segmenter(**options, **HEAD), initial_classifier(**options, **COMMON)):
            assert (network.backbone[0][0].weight == state["features.0.0.weight"].flatten()[0]).all()
            assert network.fast_layers == ("head.",)

    @pytest.mark.parametrize("name", ["vgg_mini", "vgg16", "mobilenet_v2"])
    def test_a_segmenter_takes_over_the_backbone_of_a_classifier(self, name):
        classifier = Classifier(classes=2, backbone=name, output_stride=8, **COMMON)
        segmenter = Segmenter(classes=2, backbone=name, output_stride=8, **HEAD)
        draw_norms(classifier)
        head = {key: value.clone() for key, value in segmenter.head.state_dict().items()}
        adopt_backbone(segmenter, classifier.state_dict())
        theirs = classifier.backbone.state_dict()
        for key, value in segmenter.backbone.state_dict().items():
            assert torch.equal(value, theirs[key]), key
        assert all(torch.equal(value, head[key]) for key, value in segmenter.head.state_dict().items())


def head_of(layers: int, *, channels: int = 16, branches: int = 2) -> ParallelBranches:
    rates = list(range(1, branches + 1))
    return ParallelBranches(512, 3, rates=rates, channels=channels, layers=layers, dropout=0.5, init_std=0.01)


def fully_connected(width: int) -> dict[str, torch.Tensor]:
    """fc6 and fc7 as torchvision has them, linear layers, but narrower than its 4096."""
    state = {"fc6.weight": torch.randn(width, 512 * 7 * 7), "fc6.bias": torch.randn(width)}
    return state | {"fc7.weight": torch.randn(width, width), "fc7.bias": torch.randn(width)}


class TestHeadWeights:
    """DeepLab's decimation of VGG16's fully connected layers."""

    def test_every_fourth_filter_and_every_third_row(self):
        kept = decimated(torch.arange(4096), torch.Size([1024]))
        assert torch.equal(kept, torch.arange(0, 4096, 4))
        assert decimated(torch.arange(7), torch.Size([3])).tolist() == [0, 3, 6]
        with torch.device("meta"):
            assert decimated(torch.empty(4096, 512, 7, 7), torch.Size([1024, 512, 3, 3])).shape == (1024, 512, 3, 3)

    @pytest.mark.parametrize("has", [1, 2, 7, 20])
    def test_what_is_kept_starts_at_the_first_at_equal_steps(self, has):
        for needs in range(1, has + 1):
            kept = decimated(torch.arange(has), torch.Size([needs])).tolist()
            steps = {later - earlier for earlier, later in zip(kept, kept[1:], strict=False)}
            assert len(kept) == needs and kept[0] == 0 and kept[-1] < has and len(steps) <= 1 and 0 not in steps
            assert not steps or kept[-1] + needs - 1 >= has  # one more a step would not fit

    @pytest.mark.parametrize("layers", [1, 2, 3])
    def test_every_branch_gets_its_share(self, layers):
        head, state = head_of(layers), fully_connected(64)
        before = {key: value.clone() for key, value in head.state_dict().items()}
        assert load_head_weights(head, state, source="it") == (layers > 1)
        kernels = state["fc6.weight"].view(64, 512, 7, 7)[::4, :, ::3, ::3]
        for branch in head.branches:
            convolutions = [module for module in branch if isinstance(module, nn.Conv2d)]
            assert list(branch.inner.values()) == convolutions[:-1]
            if layers > 1:
                assert torch.equal(convolutions[0].weight, kernels)
                assert torch.equal(convolutions[0].bias, state["fc6.bias"][::4])
            if layers > 2:
                assert torch.equal(convolutions[1].weight[..., 0, 0], state["fc7.weight"][::4, ::4])
                assert torch.equal(convolutions[1].bias, state["fc7.bias"][::4])
        for name in head.last_layers:
            for kind in ("weight", "bias"):
                assert torch.equal(head.state_dict()[f"{name}.{kind}"], before[f"{name}.{kind}"])

    def test_a_decimated_layer_sees_what_the_whole_one_saw(self):
        """The nine places of fc6 at rate 3 are nine of the 49 places of the fully connected layer, as DeepLab's."""
        state = fully_connected(16)
        head = ParallelBranches(512, 3, rates=[3], channels=16, layers=2, dropout=0.0, init_std=0.01)
        load_head_weights(head, state, source="it")
        features = torch.zeros(1, 512, 7, 7)
        features[:, :, ::3, ::3] = torch.randn(1, 512, 3, 3)
        whole = F.linear(features.flatten(1), state["fc6.weight"], state["fc6.bias"])
        torch.testing.assert_close(head.branches[0][0](features)[0, :, 3, 3], whole[0], rtol=1e-4, atol=1e-4)

    def test_branches_of_their_own_come_first(self):
        """vgg16_20M_mc.caffemodel names the layers of each branch."""
        state = random_caffe_state(16)
        state |= {"fc6_2.weight": torch.randn(16, 512, 3, 3), "fc6_2.bias": torch.randn(16)}
        head = head_of(3)
        assert load_head_weights(head, state, source="it")
        for branch, name in zip(head.branches, ("fc6", "fc6_2"), strict=True):
            assert torch.equal(branch[0].weight, state[f"{name}.weight"])
            assert torch.equal(branch[0].bias, state[f"{name}.bias"])
            assert torch.equal(branch[3].weight, state["fc7.weight"])

    @pytest.mark.parametrize("missing", ["fc6.weight", "fc7.bias"])
    def test_without_the_layers_the_head_stays_random_and_a_line_says_so(self, missing, capsys):
        head, state = head_of(3), fully_connected(64)
        before = {key: value.clone() for key, value in head.state_dict().items()}
        del state[missing]
        assert not load_head_weights(head, state, source="features.pth")
        said = capsys.readouterr().out
        assert f"network.weights: features.pth: has no {missing[:3]} to start the head from" in said
        assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"fc6.weight": (64, 512, 7)}, "fc6: weight (64, 512, 7)"),
            ({"fc6.weight": (25088, 64)}, "fc6: weight (25088, 64)"),
            ({"fc6.weight": (64, 256, 7, 7)}, "fc6: weight (64, 256, 7, 7)"),
            ({"fc6.weight": (64, 512, 1, 1)}, "fc6: weight (64, 512, 1, 1)"),
            ({"fc6.bias": (60,)}, "and bias (60,)"),
            ({"fc7.weight": (64, 32)}, "fc7: weight (64, 32)"),
            ({"fc7.weight": (8, 64), "fc7.bias": (8,)}, "64 channels and at least network.head_channels = 16 filters"),
        ],
    )
    def test_layers_that_do_not_fit_are_refused(self, change, said):
        head, state = head_of(3), fully_connected(64)
        before = {key: value.clone() for key, value in head.state_dict().items()}
        with pytest.raises(InputError) as error:
            load_head_weights(head, state | {key: torch.zeros(shape) for key, shape in change.items()}, source="it")
        assert said in str(error.value)
        assert all(problem.startswith("network.weights: it: fc") for problem in error.value.problems)
        assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())

    def test_everything_that_does_not_fit_is_named_at_once(self):
        state = fully_connected(8)
        with pytest.raises(InputError) as error:
            load_head_weights(head_of(3, branches=1), state, source="it")  # 16 wanted
        assert [problem.split(":")[2].strip() for problem in error.value.problems] == ["fc6", "fc7"]


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return random_caffe_state(16)


@pytest.fixture(scope="module")
def path(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("caffe") / "vgg16_20M.pth"
    unused = {"fc8-SEC.weight": torch.zeros(21, 16, 1, 1), "fc8-SEC.bias": torch.zeros(21)}
    torch.save(state | unused, path)
    return path


class TestVgg16:
    """Whole networks from a file with VGG16's weights."""

    OPTIONS = {
        "classes": 3,
        "backbone": "vgg16",
        "output_stride": 8,
        "input": "caffe",
        "dropout": 0.5,
        "init_std": 0.01,
    }
    RATES = [2, 4]

    def segmenter(self, path, **changes) -> Segmenter:
        head = {"head": "aspp", "head_channels": 16, "head_layers": 3, "rates": self.RATES}
        return initial_segmenter(weights=str(path), **self.OPTIONS, **head | changes).eval()

    @torch.inference_mode()
    def test_a_caffe_file_behaves_as_in_caffe(self, path, state):
        network = self.segmenter(path)
        images = torch.randint(0, 256, (2, 3, 33, 41), dtype=torch.uint8)
        features = literal_vgg16(images, state, released=True)
        expected = torch.zeros(2, 4, 5, 6)
        for rate, branch in zip(self.RATES, network.head.branches, strict=True):
            hidden = F.conv2d(features, state["fc6.weight"], state["fc6.bias"], padding=rate, dilation=rate).relu()
            hidden = F.conv2d(hidden, state["fc7.weight"], state["fc7.bias"]).relu()
            expected += F.conv2d(hidden, branch[-1].weight, branch[-1].bias)
        assert expected.std() > 0.01
        torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4 * float(expected.std()))

    @torch.inference_mode()
    def test_a_classifier_takes_the_same_file(self, path, state):
        network = initial_classifier(weights=str(path), **self.OPTIONS).eval()
        images = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)
        expected = literal_vgg16(images, state, released=False)
        found = network.backbone(network.normalise(images))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.std()))
        assert network.fast_layers == ("head.",) and network.inner[0].weight.std() == pytest.approx(0.01, rel=0.1)

    def test_only_the_last_layers_learn_fast(self, path):
        """Released prototxt: fc6 and fc7 at 1x and 2x, fc8 at 10x and 20x."""
        network = self.segmenter(path)
        fast = [name for name, _ in network.named_parameters() if name.startswith(network.fast_layers)]
        last = [f"head.branches.{branch}.6.{kind}" for branch in (0, 1) for kind in ("weight", "bias")]
        assert fast == last

    @pytest.mark.parametrize("layers", [1, 3])
    def test_a_head_that_stays_random_learns_fast_as_a_whole(self, path, tmp_path, layers, state, capsys):
        features = {key: value for key, value in state.items() if not key.startswith("fc")}
        torch.save(features, tmp_path / "features.pth")
        network = self.segmenter(tmp_path / "features.pth", head_layers=layers)
        assert network.fast_layers == ("head.",)
        assert ("has no fc6" in capsys.readouterr().out) == (layers == 3)

    def test_torchvisions_names_fill_the_head_too(self, state, tmp_path):
        names = torchvision_state("vgg16")
        backbone = [key for key in names if key.startswith("features.")]
        caffe = [key for key in state if key.startswith("conv")]
        renamed = {new: state[old] for new, old in zip(backbone, caffe, strict=True)}
        linear = {
            key.replace("fc6", "classifier.0").replace("fc7", "classifier.3"): value
            for key, value in fully_connected(16).items()
        }
        torch.save(renamed | linear, tmp_path / "torchvision.pth")
        network = self.segmenter(tmp_path / "torchvision.pth")
        assert torch.equal(network.backbone[28].weight, state["conv5_3.weight"])
        for branch in network.head.branches:
            kernels = linear["classifier.0.weight"].view(16, 512, 7, 7)[:, :, ::3, ::3]
            assert torch.equal(branch[0].weight, kernels)
            assert torch.equal(branch[3].weight[..., 0, 0], linear["classifier.3.weight"])
