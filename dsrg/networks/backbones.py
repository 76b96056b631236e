"""Feature extractors with output stride 8 or 16: normalized images (B, 3, H, W) -> features (B, channels, h, w).

Every backbone keeps odd sizes aligned: an image of 8k+1 pixels has k+1 cells whose centres lie on every eighth pixel
(321 -> 161 -> 81 -> 41), as Caffe's ceil-mode pooling did.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from dsrg.networks.timm_features import timm_features


@dataclass(frozen=True)
class Backbone:
    """How to build one backbone, where its ImageNet weights come from, and what its classifier adds to it.

    build: makes a chain of layers (its children in order) with the attribute `channels`. cam_channels: widths of the
    convolutions between its features and a classifier's scores.
    """

    build: Callable[..., nn.Module]
    imagenet: str | None = None
    cam_channels: tuple[int, ...] = ()


def vgg_mini(*, output_stride: int, classifier: bool) -> nn.Sequential:
    """A VGG in small for pictures of about 150 px, trained from scratch; group norm instead of ImageNet weights."""
    widths = [(16,), (32, 32), (64, 64), (128, 128)]
    layers: list[nn.Module] = []
    channels = 3
    for block, block_widths in enumerate(widths):
        # the strides are in the first three blocks; at output stride 16 the fourth pools too
        pools = block < 3 or output_stride == 16
        for width in block_widths:
            dilation = 2 if block == 3 and not pools else 1
            layers += [
                nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False),
                nn.GroupNorm(8, width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        if pools:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    for module in layers:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    features = nn.Sequential(*layers)
    features.channels = channels
    return features


def vgg16(*, output_stride: int, classifier: bool) -> nn.Sequential:
    """VGG16 as DeepLab changed it (released `train-s.prototxt`): 3x3 pools, the last without stride, conv5 dilated.

    The classifier, as SEC's, drops pool4 and pool5 and dilates nothing; its pools stay 3x3 (SEC: 2x2), so that its
    grid is the segmenter's.
    """
    pools_with_stride = {8: 3, 16: 4}[output_stride]
    layers: list[nn.Module] = []
    channels, pools = 3, 0
    for width, repeats in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        dilation = 2 if pools > pools_with_stride and not classifier else 1
        for _ in range(repeats):
            layers += [
                nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation),
                nn.ReLU(inplace=True),
            ]
            channels = width
        pools += 1
        if pools <= pools_with_stride:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True))
        elif not classifier:
            layers.append(nn.MaxPool2d(3, stride=1, padding=1))
        else:
            layers.append(nn.Identity())  # keeps torchvision's layer numbers
    if not classifier:
        layers.append(nn.AvgPool2d(3, stride=1, padding=1))
    features = nn.Sequential(*layers)
    features.channels = channels
    return features


class ConvFrozenBN(nn.Conv2d):
    """A convolution that does the work of the frozen batch norm after it: weight * scale, plus the shift.

    The same function and the same gradients as the two layers, without a pass over the activations.
    """

    float32 = False

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
        shape = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation
        super().__init__(*shape, conv.groups, bias=False, device="meta")  # draws no random numbers
        self.weight = conv.weight
        self.norms = (norm,)  # a tuple, so that the norm stays registered in its own place only

    def forward(self, inputs: Tensor) -> Tensor:
        norm = self.norms[0]
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = self.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
        if not self.float32:
            return self._conv_forward(inputs, weight, bias)
        # on CPUs, gradients of depthwise convolutions in bf16 are many times slower where these are strided or dilated,
        # and those of dilated weights can be wrong
        with torch.autocast(inputs.device.type, enabled=False):
            return self._conv_forward(inputs.to(weight.dtype), weight, bias)


class _AbsorbedNorm(FrozenBatchNorm2d):
    """A frozen batch norm whose convolution does its work."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def _absorb_norms(network: nn.Module) -> None:
    """Let every convolution take over the frozen batch norm after it; torchvision's names of weights stay."""
    for parent in list(network.modules()):
        for (name, conv), (norm_name, norm) in pairwise(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
                absorbed = _AbsorbedNorm(conv.out_channels, eps=norm.eps)
                absorbed.load_state_dict(norm.state_dict())
                setattr(parent, name, ConvFrozenBN(conv, absorbed))
                setattr(parent, norm_name, absorbed)


class _ResNet(nn.Module):
    """torchvision's ResNet without its pooling and classifier, a chain of its children."""

    channels = 2048

    def __init__(self, resnet: torchvision.models.ResNet) -> None:
        super().__init__()
        for name, child in resnet.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)

    def forward(self, images: Tensor) -> Tensor:
        for child in self.children():
            images = child(images)
        return images


def resnet101(*, output_stride: int, classifier: bool) -> _ResNet:
    """ResNet101, the last stages dilated instead of strided; batch norm frozen, as in DeepLab."""
    resnet = torchvision.models.resnet101(
        norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, output_stride == 8, True]
    )
    resnet.maxpool.ceil_mode = True
    # Frozen norms do not tame random weights: every block would double the variance, 2 ** 33 in all. ImageNet's weights
    # replace this.
    blocks = [module for module in resnet.modules() if isinstance(module, Bottleneck)]
    for block in blocks:
        nn.init.constant_(block.bn3.weight, len(blocks) ** -0.5)
    _absorb_norms(resnet)
    return _ResNet(resnet)


def mobilenet_v2(*, output_stride: int, classifier: bool) -> nn.Sequential:
    """MobileNetV2 with late strides turned into dilation; batch norm frozen.

    The last 1x1 convolution (320 -> 1280) serves classification and is left out of segmentation, as DeepLab does.
    """
    features = torchvision.models.mobilenet_v2(norm_layer=FrozenBatchNorm2d).features
    if not classifier:
        features = features[:-1]
    _absorb_norms(features)
    stride, dilation = 1, 1
    for module in features.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        applied = dilation
        if module.stride == (2, 2):
            if stride == output_stride:
                module.stride, dilation = (1, 1), dilation * 2
            else:
                stride *= 2
        if module.kernel_size == (3, 3):
            module.dilation = module.padding = (applied, applied)
            module.float32 = module.groups > 1 and (applied > 1 or module.stride == (2, 2))
    features.channels = 1280 if classifier else 320
    return features


class _Backbones(dict[str, Backbone]):
    """The program's own by name, and timm's on demand as timm:NAME."""

    def __missing__(self, name: str) -> Backbone:
        if not name.startswith("timm:"):
            raise KeyError(name)
        return Backbone(partial(timm_features, name.removeprefix("timm:")))


BACKBONES = _Backbones(
    vgg_mini=Backbone(vgg_mini),
    vgg16=Backbone(vgg16, "VGG16_Weights", cam_channels=(1024, 1024)),  # SEC's fc6_CAM and fc7_CAM
    resnet101=Backbone(resnet101, "ResNet101_Weights"),
    mobilenet_v2=Backbone(mobilenet_v2, "MobileNet_V2_Weights"),
)
