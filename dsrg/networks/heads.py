"""From features to class scores: ASPP and LargeFOV for segmentation."""

import torch
from torch import Tensor, nn


class Branch(nn.Sequential):
    """fc6 (3x3, dilated), fc7 (1x1), fc8 (1x1): DeepLab's classifier as convolutions, dropout after the first two.

    `layers` 3 is the released VGG16 net; 2 leaves out fc7; 1 is fc8 alone as a dilated 3x3 convolution (ResNet101).
    """

    def __init__(self, inputs: int, outputs: int, *, rate: int, channels: int, layers: int, dropout: float) -> None:
        modules: list[nn.Module] = []
        for layer in range(layers - 1):
            kernel = 3 if layer == 0 else 1
            reach = rate if layer == 0 else 0
            modules += [
                nn.Conv2d(inputs, channels, kernel, padding=reach, dilation=max(reach, 1)),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
            ]
            inputs = channels
        if layers == 1:
            modules += [nn.Dropout(dropout), nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate)]
        else:
            modules.append(nn.Conv2d(inputs, outputs, 1))
        super().__init__(*modules)
        for module in self:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self[-1].weight, std=0.01)


class ParallelBranches(nn.Module):
    """Branches of different reach, their scores summed: ASPP has four, LargeFOV one (DeepLab v2)."""

    def __init__(self, inputs: int, outputs: int, *, rates: list[int], **branch: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch(inputs, outputs, rate=rate, **branch) for rate in rates)

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([branch(features) for branch in self.branches]).sum(dim=0)
