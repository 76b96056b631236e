"""First weights: those that fit are taken, by torchvision's names and by Caffe's; all others are refused."""

import pickle
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from dsrg.errors import InputError
from dsrg.networks.heads import ASPP
from dsrg.networks.network import CamClassifier, DeepLab
from dsrg.networks.weights import (
    adopt_backbone,
    decimated,
    initial_network,
    load_backbone_weights,
    load_head_weights,
    read_weights,
)
from helpers.networks import COMMON, HEAD, NORMED, draw_norms, without_init
from helpers.pickles import RunsCode


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


def fill(backbone: nn.Module, path: object, *, name: str) -> None:
    load_backbone_weights(backbone, read_weights(str(path), name=name), name=name, source=str(path))


def copy_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


URL = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Where torchvision keeps its file of MobileNetV2."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub/checkpoints" / URL.rsplit("/", 1)[-1]
    place.parent.mkdir(parents=True)
    return place


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

    def test_imagenet_is_torchvisions_file(self, cached):
        state = torchvision_state("mobilenet_v2")
        torch.save(state, cached)
        backbone = without_init("mobilenet_v2")
        fill(backbone, "imagenet", name="mobilenet_v2")
        assert (backbone[0][0].weight == state["features.0.0.weight"].flatten()[0]).all()

    def test_offline_says_where_to_put_the_file(self, cached, monkeypatch):
        def offline(*arguments, **options):
            raise URLError("no route to host")

        monkeypatch.setattr(torchvision.models.MobileNet_V2_Weights, "get_state_dict", offline)
        said = self.refusal("imagenet")
        assert "no route to host" in said and URL in said and str(cached) in said

    @pytest.mark.parametrize("content", [b"half a file", pickle.dumps("no weights", protocol=2)])
    def test_a_broken_download_is_no_traceback(self, cached, content):
        cached.write_bytes(content)
        assert "network.weights: " in self.refusal("imagenet")

    def test_no_imagenet_weights_for_the_small_network(self):
        assert "there are no ImageNet weights for vgg_mini; use null" in self.refusal("imagenet", name="vgg_mini")

    def test_null_leaves_everything_random(self):
        options = {"classes": 2, "backbone": "vgg_mini", "output_stride": 8}
        for make, more in [(DeepLab, HEAD), (CamClassifier, COMMON)]:
            torch.manual_seed(0)
            expected = make(**options, **more).state_dict()
            torch.manual_seed(0)
            found = initial_network(make, weights=None, **options, **more).state_dict()
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
        torch.save(state, tmp_path / "gray.pth")
        said = self.refusal(tmp_path / "gray.pth")
        assert "0.0.weight is (32, 1, 3, 3), mobilenet_v2 needs (32, 3, 3, 3)" in said
        assert "1.conv.1.weight is (8, 32, 1, 1)" in said and len(said.splitlines()) == 2

    def test_missing_garbage_and_other_content(self, tmp_path):
        assert "no such file" in self.refusal(tmp_path / "none.pth")
        (tmp_path / "text.pth").write_bytes(b"garbage")
        assert "not a state dict" in self.refusal(tmp_path / "text.pth")
        torch.save({"epoch": 3, "model": torchvision_state("resnet18")}, tmp_path / "checkpoint.pth")
        assert "expected a state dict (names -> tensors)" in self.refusal(tmp_path / "checkpoint.pth")

    def test_a_file_that_would_run_code_is_refused_before_it_does(self, tmp_path, cached):
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
        for make, more in ((DeepLab, HEAD), (CamClassifier, COMMON)):
            network = initial_network(make, **options, **more)
            assert (network.backbone[0][0].weight == state["features.0.0.weight"].flatten()[0]).all()
            assert network.new_layers == ("head.",)

    @pytest.mark.parametrize("name", ["vgg_mini", "vgg16", "mobilenet_v2"])
    def test_a_segmenter_takes_over_the_backbone_of_a_classifier(self, name):
        classifier = CamClassifier(classes=2, backbone=name, output_stride=8, **COMMON)
        segmenter = DeepLab(classes=2, backbone=name, output_stride=8, **HEAD)
        draw_norms(classifier)
        head = copy_of(segmenter.head)
        adopt_backbone(segmenter, classifier.state_dict())
        theirs = classifier.backbone.state_dict()
        for key, value in segmenter.backbone.state_dict().items():
            assert torch.equal(value, theirs[key]), key
        assert all(torch.equal(value, head[key]) for key, value in segmenter.head.state_dict().items())

    def test_a_segmenter_does_not_take_over_another_backbone(self):
        segmenter = DeepLab(classes=2, backbone="vgg_mini", output_stride=8, **HEAD)
        theirs = CamClassifier(classes=2, backbone="vgg_mini", output_stride=8, **COMMON).state_dict()
        first, second, *_ = segmenter.backbone.state_dict()
        theirs |= {f"backbone.{first}": torch.zeros(1)}
        del theirs[f"backbone.{second}"]
        with pytest.raises(InputError, match="run the stage `train_cam` again") as error:
            adopt_backbone(segmenter, theirs)
        assert [problem.split()[4] for problem in error.value.problems] == [first, second]


def head_of(layers: int, *, channels: int = 16, branches: int = 2) -> ASPP:
    rates = list(range(1, branches + 1))
    return ASPP(512, 3, rates=rates, channels=channels, layers=layers, dropout=0.5, init_std=0.01)


def fully_connected(width: int) -> dict[str, torch.Tensor]:
    """fc6 and fc7 as torchvision has them, linear layers, but narrower than its 4096."""
    state = {"fc6.weight": torch.randn(width, 512 * 7 * 7), "fc6.bias": torch.randn(width)}
    return state | {"fc7.weight": torch.randn(width, width), "fc7.bias": torch.randn(width)}


class TestHeadWeights:
    """DeepLab's decimation of VGG16's fully connected layers."""

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
        before = copy_of(head)
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
        head = ASPP(512, 3, rates=[3], channels=16, layers=2, dropout=0.0, init_std=0.01)
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
        before = copy_of(head)
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
        before = copy_of(head)
        with pytest.raises(InputError) as error:
            load_head_weights(head, state | {key: torch.zeros(shape) for key, shape in change.items()}, source="it")
        assert said in str(error.value)
        assert all(problem.startswith("network.weights: it: fc") for problem in error.value.problems)
        assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


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

    OPTIONS = {"classes": 3, "backbone": "vgg16", "output_stride": 8, **COMMON, "input": "caffe", "dropout": 0.5}
    RATES = [2, 4]

    def segmenter(self, path, **changes) -> DeepLab:
        head = {"head": "aspp", "head_channels": 16, "head_layers": 3, "rates": self.RATES}
        return initial_network(DeepLab, weights=str(path), **self.OPTIONS, **head | changes).eval()

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
        network = initial_network(CamClassifier, weights=str(path), **self.OPTIONS).eval()
        images = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)
        expected = literal_vgg16(images, state, released=False)
        found = network.backbone(network.normalize(images))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.std()))
        assert network.new_layers == ("head.",) and network.inner[0].weight.std() == pytest.approx(0.01, rel=0.1)
        # SEC's foreground/deploy.prototxt: fc6_CAM, ReLU, dropout, fc7_CAM without ReLU, dropout
        assert [getattr(layer, "out_channels", type(layer).__name__) for layer in network.inner] == [
            *(1024, "ReLU", "BatchDropout", 1024, "BatchDropout")
        ]

    def test_only_the_last_layers_learn_fast(self, path):
        """Released prototxt: fc6 and fc7 at 1x and 2x, fc8 at 10x and 20x."""
        network = self.segmenter(path)
        fast = [name for name, _ in network.named_parameters() if name.startswith(network.new_layers)]
        last = [f"head.branches.{branch}.6.{kind}" for branch in (0, 1) for kind in ("weight", "bias")]
        assert fast == last

    @pytest.mark.parametrize("layers", [1, 3])
    def test_a_head_that_stays_random_learns_fast_as_a_whole(self, path, tmp_path, layers, state, capsys):
        features = {key: value for key, value in state.items() if not key.startswith("fc")}
        torch.save(features, tmp_path / "features.pth")
        network = self.segmenter(tmp_path / "features.pth", head_layers=layers)
        assert network.new_layers == ("head.",)
        printed = capsys.readouterr().out
        assert ("has no fc6" in printed) == ("network.features_rms" in printed) == (layers == 3)

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
