"""From features to class scores: ASPP and LargeFOV for segmentation, SEC's layers before a classifier's scores."""

import torch
from torch import Tensor, nn

from dsrg.networks.dropout import BatchDropout


class Branch(nn.Sequential):
    """fc6 (3x3, dilated), fc7 (1x1), fc8 (1x1): DeepLab's classifier as convolutions, dropout after the first two.

    `layers` 3 is the released VGG16 net; 2 leaves out fc7; 1 is fc8 alone as a dilated 3x3 convolution (ResNet101).
    fc8 starts with the deviation `init_std` (released: 0.01), so that no class is likely at first.
    """

    def __init__(
        self, inputs: int, outputs: int, *, rate: int, channels: int, layers: int, dropout: float, init_std: float
    ) -> None:
        modules: list[nn.Module] = [BatchDropout(dropout)] if layers == 1 else []
        for layer in range(layers):
            reach = {"kernel_size": 1} if layer else {"kernel_size": 3, "padding": rate, "dilation": rate}
            width = channels if layer < layers - 1 else outputs
            modules += [nn.Conv2d(inputs, width, **reach), nn.ReLU(inplace=True), BatchDropout(dropout)]
            inputs = width
        super().__init__(*modules[:-2])  # fc8 gives scores
        for module in self:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self[-1].weight, std=init_std)

    @property
    def inner(self) -> dict[str, nn.Conv2d]:
        """The convolutions before fc8, by their names in VGG16."""
        convolutions = [module for module in list(self)[:-1] if isinstance(module, nn.Conv2d)]
        return dict(zip(("fc6", "fc7"), convolutions, strict=False))


class ASPP(nn.Module):
    """Branches of different reach, their scores summed: ASPP has four, LargeFOV one (DeepLab v2)."""

    def __init__(self, inputs: int, outputs: int, *, rates: list[int], **branch: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch(inputs, outputs, rate=rate, **branch) for rate in rates)

    @property
    def last_layers(self) -> list[str]:
        """Names of the branches' last layers, those that give scores."""
        return [f"branches.{n}.{len(branch) - 1}" for n, branch in enumerate(self.branches)]

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([branch(features) for branch in self.branches]).sum(dim=0)


def cam_layers(inputs: int, *, channels: tuple[int, ...], dropout: float, init_std: float) -> nn.Sequential:
    """What stands between features and a classifier's scores: 3x3 convolutions of these widths, dropout after each.

    SEC's fc6_CAM and fc7_CAM: a ReLU between them, none after the second, all weights drawn with one deviation
    (`weak-localization/foreground/deploy.prototxt`; 0.005). Without `channels`, dropout alone.
    """
    if not channels:
        return nn.Sequential(BatchDropout(dropout))
    layers: list[nn.Module] = []
    for width in channels:
        conv = nn.Conv2d(inputs, width, 3, padding=1)
        nn.init.normal_(conv.weight, std=init_std)
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.ReLU(inplace=True), BatchDropout(dropout)]
        inputs = width
    del layers[-2]  # scores weigh positive and negative activations
    return nn.Sequential(*layers)
