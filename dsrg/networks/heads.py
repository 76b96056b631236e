"""From features to class scores: ASPP, LargeFOV, SEC's layers before a classifier's scores; their dropout."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchDropout(nn.Dropout):
    """Dropout that leaves out of every image of a batch the same, whichever part of the batch one process sees.

    A part draws what the whole batch would, and so leaves the same random state behind.
    """

    first = 0  # images of the batch before this part
    batch: int | None = None  # images of the whole batch; None: this is all of it

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training or self.batch is None:
            return super().forward(inputs)
        strides = inputs[0].numel(), *inputs.stride()[1:]  # random numbers come in the order of memory
        whole = inputs.new_empty_strided((self.batch, *inputs.shape[1:]), strides).fill_(1)
        return inputs * F.dropout(whole, self.p)[self.first : self.first + len(inputs)]


def share_dropout(network: nn.Module, *, first: int, batch: int) -> None:
    """Tell a network's dropout that it sees a part of a batch of `batch` images, from `first` on."""
    for module in network.modules():
        if isinstance(module, BatchDropout):
            module.first, module.batch = first, batch


class Branch(nn.Sequential):
    """fc6 (3x3, dilated), fc7 (1x1), fc8 (1x1): DeepLab's classifier as convolutions, dropout after the first two.

    `layers` 3 is the released VGG16 net; 2 leaves out fc7; 1 is fc8 alone as a dilated 3x3 convolution (ResNet101).
    fc8 starts with the deviation `init_std` (released: 0.01), so that no class is likely at first; the others by
    Kaiming's rule. It expects features whose root mean square is about 1: fc6's weights are divided by `features_rms`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rate: int,
        channels: int,
        layers: int,
        dropout: float,
        init_std: float,
        features_rms: float = 1.0,
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
        if layers > 1:
            self[0].weight.data /= features_rms
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
