"""Feature extractors with output stride 8 or 16: normalized images (B, 3, H, W) -> features (B, channels, h, w).

Every backbone keeps odd sizes aligned: an image of 8k+1 pixels has k+1 cells whose centers lie on every eighth pixel
(321 -> 161 -> 81 -> 41), as Caffe's ceil-mode pooling did.
torchvision, which takes longer to import than torch itself, is imported where its networks are built.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

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
    features = nn.Sequential(*layers)
    _he_init(features)
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
            layers += [nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)]
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


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed numbers, by torchvision's names; the convolution before it does its work."""

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


class ConvFrozenBN(nn.Conv2d):
    """A convolution that does the work of the frozen batch norm after it: weight * scale, plus the shift.

    The same function and the same gradients as the two layers, without a pass over the activations.
    """

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm) -> None:
        shape = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation
        super().__init__(*shape, conv.groups, bias=False, device="meta")  # draws no random numbers
        self.weight = conv.weight
        self.norms = (norm,)  # a tuple, so that the norm stays registered in its own place only
        # on CPUs, gradients of depthwise convolutions in bf16 are many times slower where these are strided or dilated,
        # and those of dilated weights can be wrong
        self.float32 = conv.groups > 1 and max(*conv.stride, *conv.dilation) > 1

    def forward(self, inputs: Tensor) -> Tensor:
        norm = self.norms[0]
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = self.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
        if not self.float32:
            return self._conv_forward(inputs, weight, bias)
        with torch.autocast(inputs.device.type, enabled=False):
            return self._conv_forward(inputs.to(weight.dtype), weight, bias)


def _absorb_norms(network: nn.Module) -> None:
    """Let every convolution take over the frozen batch norm after it; torchvision's names of weights stay."""
    for parent in list(network.modules()):
        for (name, conv), (_, norm) in pairwise(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm):
                setattr(parent, name, ConvFrozenBN(conv, norm))


def resnet101(*, output_stride: int, classifier: bool) -> nn.Sequential:
    """ResNet101, the last stages dilated instead of strided; batch norm frozen, as in DeepLab."""
    import torchvision

    resnet = torchvision.models.resnet101(
        norm_layer=FrozenBatchNorm, replace_stride_with_dilation=[False, output_stride == 8, True]
    )
    resnet.maxpool.ceil_mode = True
    # Frozen norms do not tame random weights: every block would double the variance, 2 ** 33 in all. ImageNet's weights
    # replace this.
    blocks = [module for module in resnet.modules() if hasattr(module, "bn3")]
    for block in blocks:
        nn.init.constant_(block.bn3.weight, len(blocks) ** -0.5)
    _absorb_norms(resnet)
    features = nn.Sequential(OrderedDict(list(resnet.named_children())[:-2]))  # without avgpool and fc
    features.channels = 2048
    return features


def _conv_norm(
    inputs: int, channels: int, size: int = 1, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, channels, size, stride, dilation * (size // 2), dilation, groups, bias=False)
    return nn.Sequential(conv, FrozenBatchNorm(channels), nn.ReLU6(inplace=True))


class _InvertedResidual(nn.Module):
    """MobileNetV2's block: widened, convolved depthwise, narrowed; the names of its layers are torchvision's."""

    def __init__(self, inputs: int, channels: int, *, expand: int, stride: int, dilation: int) -> None:
        super().__init__()
        hidden = expand * inputs
        widen = [_conv_norm(inputs, hidden)] if expand > 1 else []
        depthwise = _conv_norm(hidden, hidden, 3, stride=stride, dilation=dilation, groups=hidden)
        self.conv = nn.Sequential(*widen, depthwise, *_conv_norm(hidden, channels)[:2])
        self.is_residual = inputs == channels

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.conv(inputs) if self.is_residual else self.conv(inputs)


def mobilenet_v2(*, output_stride: int, classifier: bool) -> nn.Sequential:
    """MobileNetV2 (Sandler et al. 2018, table 2) with late strides turned into dilation; batch norm frozen.

    The last 1x1 convolution (320 -> 1280) serves classification and is left out of segmentation, as DeepLab does.
    """
    layers, channels, stride, dilation = [_conv_norm(3, 32, 3, stride=2)], 32, 2, 1
    for expand, width, repeats, step in [
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ]:
        kept = step if stride * step <= output_stride else 1
        layers.append(_InvertedResidual(channels, width, expand=expand, stride=kept, dilation=dilation))
        channels, stride, dilation = width, stride * kept, dilation * step // kept
        block = {"expand": expand, "stride": 1, "dilation": dilation}
        layers += [_InvertedResidual(width, width, **block) for _ in range(repeats - 1)]
    if classifier:
        layers.append(_conv_norm(channels, 1280))
    features = nn.Sequential(*layers)
    _he_init(features)
    _absorb_norms(features)
    features.channels = 1280 if classifier else channels
    return features


def _he_init(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


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
