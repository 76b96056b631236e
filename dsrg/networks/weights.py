"""Initial weights: random, ImageNet's from torchvision, or a state dict file of the user's."""

import socket
from collections.abc import Callable
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor, nn

from dsrg.artifacts.model_file import Model
from dsrg.errors import InputError, one_line
from dsrg.files import find_in_project
from dsrg.networks.backbones import BACKBONES
from dsrg.networks.heads import ASPP
from dsrg.networks.network import BackboneNetwork, CamClassifier, DeepLab
from dsrg.networks.timm_features import timm_features
from dsrg.params import Params

PATIENCE = 30  # seconds that a server may be silent while weights are fetched

# VGG16 by Caffe's names and by torchvision's numbers; the numbers are the backbone's own names
CAFFE_NAMES = [f"conv{block}_{n}" for block, convs in enumerate((2, 2, 3, 3, 3), 1) for n in range(1, convs + 1)]
NUMBERS = ["0", "2", "5", "7", "10", "12", "14", "17", "19", "21", "24", "26", "28"]
VGG16_NAMES = dict(zip(CAFFE_NAMES, NUMBERS, strict=True)) | {"classifier.0": "fc6", "classifier.3": "fc7"}


def network_options(params: Params, training: str) -> dict[str, object]:
    """Arguments of the network of a training ("cam", "dsrg" or "retrain"), as its model file keeps them."""
    network = params.network_of(training)
    if training != "cam":
        return network.model_dump(exclude={"weights"})
    own = network.model_dump(include={"backbone", "output_stride", "input"})
    return own | {"dropout": params.cam.dropout, "init_std": params.cam.init_std}


def as_model(network: BackboneNetwork, params: Params, training: str, *, classes: list[str]) -> Model:
    """The trained network of a training, to be saved."""
    kind, options = "classifier" if training == "cam" else "segmenter", network_options(params, training)
    if training == "cam" and params.cam.erase_rounds > 1:
        options |= params.cam.model_dump(include={"erase_rounds", "erase_thresh"})
    return Model(kind, classes, options, params.data.size, network.state_dict())


def untrained(params: Params, training: str, *, classes: int, weights: str | None = None) -> BackboneNetwork:
    """The network of a training, its weights random or as `initial_network` has them."""
    make = CamClassifier if training == "cam" else DeepLab
    return initial_network(make, classes=classes, weights=weights, **network_options(params, training))


def pretrained(params: Params, training: str, *, classes: int) -> BackboneNetwork:
    """The network of a training with its params' `network.weights`."""
    return untrained(params, training, classes=classes, weights=params.network_of(training).weights)


def initial_network(
    make: Callable[..., BackboneNetwork], *, classes: int, weights: str | None, **options: object
) -> BackboneNetwork:
    """A DeepLab or a CamClassifier (`make`, which takes the options) filled from `weights`.

    weights: null (stay random), "imagenet" (torchvision's) or a path to a state dict. They fill the backbone and, of
    VGG16, fc6 and fc7 in every branch of DeepLab's head; only what stays random learns at the head's rate
    (`new_layers`). Raises InputError where the weights cannot be had or do not fit.
    """
    network, name = make(classes=classes, **options), options["backbone"]
    if weights is not None:
        state = read_weights(weights, name=name)
        load_backbone_weights(network.backbone, state, name=name, source=weights)
        if name == "vgg16" and make is DeepLab and load_head_weights(network.head, state, source=weights):
            network.new_layers = tuple(f"head.{layer}." for layer in network.head.last_layers)
    return network


def imagenet_fault(name: str) -> str | None:
    """Why ImageNet's weights of a backbone cannot be had, or None; then they are here, fetched if need be."""
    try:
        read_weights("imagenet", name=name)
    except InputError as error:
        return str(error)
    return None


def adopt_backbone(segmenter: DeepLab, classifier_weights: dict[str, Tensor]) -> None:
    """Start a segmenter from a trained classifier's backbone of the same kind, without the layers it lacks.

    Raises InputError with every layer that the classifier does not have, or in another shape.
    """
    own = segmenter.backbone.state_dict()
    theirs = {key.removeprefix("backbone."): value for key, value in classifier_weights.items()}
    if odd := [key for key in own if key not in theirs or theirs[key].shape != own[key].shape]:
        advice = "network.backbone must be the classifier's; run the stage `train_cam` again"
        raise InputError(f"the classifier has no {key} of shape {tuple(own[key].shape)}; {advice}" for key in odd)
    segmenter.backbone.load_state_dict({key: theirs[key] for key in own})


def read_weights(weights: str, *, name: str) -> dict[str, Tensor]:
    """The state dict of "imagenet" or of a file, under the names of the backbone `name`; VGG16's has fc6 and fc7 too.

    Raises InputError where it cannot be had.
    """
    if name.startswith("timm:"):
        source = weights if weights == "imagenet" else str(find_in_project(weights))
        options = {"output_stride": 16, "classifier": False, "weights": source}  # weights are the same at any stride
        return timm_features(name.removeprefix("timm:"), **options).state_dict()
    state = _imagenet(name) if weights == "imagenet" else _from_file(find_in_project(weights))
    names = VGG16_NAMES if name == "vgg16" else {}
    renamed = {}
    for key, value in state.items():
        layer, dot, kind = key.removeprefix("features.").rpartition(".")
        renamed[names.get(layer, layer) + dot + kind] = value
    return renamed


def load_backbone_weights(backbone: nn.Module, state: dict[str, Tensor], *, name: str, source: str) -> None:
    """Fill the whole backbone from a state dict with its names. Raises InputError, naming all layers that do not fit.

    source: where the weights come from, for the message.
    """
    own = backbone.state_dict()
    misshapen = [
        f"network.weights: {source}: {key} is {tuple(state[key].shape)}, {name} needs {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    missing = [key for key in own if key not in state]
    if len(missing) == len(own):
        raise InputError(f"network.weights: {source}: holds no layer of {name}; expected keys like {missing[0]}")
    if misshapen or missing:
        raise InputError(
            misshapen + [f"network.weights: {source}: {key} of {name} is missing; expected all" for key in missing]
        )
    backbone.load_state_dict({key: state[key] for key in own})


@torch.no_grad()
def load_head_weights(head: ASPP, state: dict[str, Tensor], *, source: str) -> bool:
    """Fill fc6 and fc7 of every branch from VGG16's, thinned out to the head's size as DeepLab's LargeFOV did.

    Of VGG16's 4096 filters every fourth stays (head_channels 1024), of fc6's 7 x 7 places every third row and column;
    fc7's inputs follow fc6's filters. Weights of each branch, as the released ASPP net has them (`fc6_1`, `fc7_1`,
    ...), come before common ones (`fc6`, `fc7`). Without such layers the head stays random and a line is printed.

    Returns whether anything was filled. Raises InputError where layers are not VGG16's, or have fewer filters than the
    head.
    """
    values: list[tuple[nn.Parameter, Tensor]] = []
    problems = []
    for number, branch in enumerate(head.branches, 1):
        inputs = None
        for layer, conv in branch.inner.items():
            key = f"{layer}_{number}" if f"{layer}_{number}.weight" in state else layer
            if f"{key}.weight" not in state or f"{key}.bias" not in state:
                random = f"{source}: has no {layer} to start the head from; it stays random"
                print(f"network.weights: {random}; fit network.features_rms to them (Caffe's: 24)", flush=True)
                return False
            inputs = inputs or conv.in_channels
            weight, bias = _as_kernels(state[f"{key}.weight"], inputs), state[f"{key}.bias"]
            if weight.shape[1:2] != (inputs,) or bias.shape != weight.shape[:1] or not _covers(weight, conv.weight):
                problems.append(
                    f"network.weights: {source}: {key}: weight {tuple(weight.shape)} and bias {tuple(bias.shape)}, "
                    f"expected VGG16's {inputs} channels and at least network.head_channels = {len(conv.bias)} filters"
                )
            values += [(conv.weight, weight), (conv.bias, bias)]
            inputs = bias.numel()
    if problems:
        raise InputError(problems)
    for parameter, value in values:
        parameter.copy_(decimated(value, parameter.shape))
    return bool(values)


def decimated(values: Tensor, shape: torch.Size) -> Tensor:
    """Values at equal steps from the first on along every axis, as far apart as `shape` allows (7 -> 3: 0, 3, 6)."""
    for dim, (has, needs) in enumerate(zip(values.shape, shape, strict=True)):
        step = (has - 1) // max(needs - 1, 1)
        values = values.index_select(dim, step * torch.arange(needs))
    return values


def _as_kernels(weight: Tensor, inputs: int) -> Tensor:
    """A fully connected layer (O, I * k * k) as the convolution over all it sees (O, I, k, k); others unchanged."""
    if weight.ndim != 2:
        return weight
    side = isqrt(weight.shape[1] // inputs)
    return weight.reshape(-1, inputs, side, side) if inputs * side**2 == weight.shape[1] else weight


def _covers(weight: Tensor, wanted: Tensor) -> bool:
    """Whether there is a value for each of `wanted`, along every axis."""
    sizes = zip(weight.shape, wanted.shape, strict=False)
    return weight.ndim == wanted.ndim and all(has >= needs for has, needs in sizes)


def _imagenet(name: str) -> dict[str, Tensor]:
    import torchvision  # seconds, of which a network that is trained needs nothing

    enum = BACKBONES[name].imagenet
    if enum is None:
        raise InputError(f"network.weights: there are no ImageNet weights for {name}; use null")
    entry = getattr(torchvision.models, enum).IMAGENET1K_V1
    waits = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)  # torch itself would wait for ever
    try:
        return entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no network, or a broken file: urllib and torch raise many kinds
        place = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
        raise InputError(
            f"network.weights: imagenet: cannot get {entry.url} ({one_line(error)}); download it elsewhere and put it "
            f"at {place}, or give the path of a state dict as network.weights"
        ) from None
    finally:
        socket.setdefaulttimeout(waits)


def _from_file(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"network.weights: {path}: no such file") from None
    except Exception as error:
        raise InputError(f"network.weights: {path}: not a state dict ({one_line(error)})") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"network.weights: {path}: expected a state dict (names -> tensors)")
    return state
