"""Small networks, and model files of them."""

from pathlib import Path

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from dsrg.artifacts.model_file import Model, save_model
from dsrg.networks import network
from dsrg.networks.backbones import BACKBONES, FrozenBatchNorm

COMMON = {"input": "torchvision", "dropout": 0.0, "init_std": 0.01}
HEAD = {"head": "aspp", "head_channels": 8, "head_layers": 2, "rates": [1, 2], **COMMON}
NETWORK = {"backbone": "vgg_mini", "output_stride": 8, **HEAD, "head": "largefov", "rates": [2], "init_std": 0.3}
NORMED = ["resnet101", "mobilenet_v2"]  # with batch norm that is frozen


def save_network(path: Path, classes: list[str], **changes: object) -> Path:
    torch.manual_seed(0)
    weights = network.DeepLab(classes=len(classes), **NETWORK).state_dict()
    save_model(
        path, Model(**{"kind": "segmenter", "network": NETWORK, "size": 65} | changes, classes=classes, weights=weights)
    )
    return path


def classifier(backbone: str = "vgg_mini", *, classes: int, stride: int = 8, **changes: float) -> network.CamClassifier:
    torch.manual_seed(0)
    options = {"backbone": backbone, "output_stride": stride, **COMMON, **changes}
    return network.CamClassifier(classes=classes, **options).eval()


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
        if isinstance(module, (FrozenBatchNorm, FrozenBatchNorm2d)):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
