"""Whole networks: plain RGB images in, class scores on the grid out."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsrg.method.grid import grid_size
from dsrg.networks.backbones import BACKBONES
from dsrg.networks.heads import ASPP, cam_layers

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's, of RGB in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (104.0, 117.0, 123.0)  # the released nets', of BGR in 0..255


def corner_aligned(maps: Tensor, *, stride: int, height: int, width: int) -> Tensor:
    """Maps (B, K, h, w) of an image of 8k+1 pixels a side -> maps whose corner cells lie on the image's corners.

    The cells lie on every `stride`-th pixel from the first, `stride` up to 16. At 16 and odd k the last one misses the
    corner by half a cell; such maps are brought to the stride-8 grid, with the cells in common unchanged. Others stay.
    """
    if (height - 1) % stride == 0 and (width - 1) % stride == 0:
        return maps
    rows, columns = grid_size(height), grid_size(width)
    between = [2 * cells - 1 for cells in maps.shape[2:]]
    maps = F.interpolate(maps, between, mode="bilinear", align_corners=True)
    short = (0, max(0, columns - maps.shape[3]), 0, max(0, rows - maps.shape[2]))
    return F.pad(maps, short, mode="replicate")[:, :, :rows, :columns]


class Normalize(nn.Module):
    """uint8 RGB (B, 3, H, W) -> float (B, 3, H, W) as a network's first weights expect it.

    `convention` "torchvision": RGB with ImageNet's mean 0 and deviation 1. "caffe": BGR, 0..255 minus the mean.
    "caffe_rgb": the same weights with their first layer turned to RGB, as torchvision's `IMAGENET1K_FEATURES` of VGG16.
    """

    def __init__(self, convention: str) -> None:
        super().__init__()
        # by NumPy: products of the meta tensors that a network is sketched with would import torch._dynamo
        mean, std = {
            "torchvision": (np.float32(IMAGENET_MEAN) * 255, np.float32(IMAGENET_STD) * 255),
            "caffe": (CAFFE_MEAN, (1.0, 1.0, 1.0)),
            "caffe_rgb": (CAFFE_MEAN[::-1], (1.0, 1.0, 1.0)),
        }[convention]
        self.bgr = convention == "caffe"
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        images = images.flip(1) if self.bgr else images
        return ((images.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


class BackboneNetwork(nn.Module):
    """What both networks begin with: plain images to features of a backbone.

    `new_layers` are the starts of the names of the parameters that learn at the head's rate: the whole head, or less
    where the head's first layers start from ImageNet weights too.
    """

    new_layers: tuple[str, ...] = ("head.",)

    def __init__(self, *, backbone: str, output_stride: int, input: str, classifier: bool) -> None:
        super().__init__()
        self.normalize = Normalize(input)
        self.output_stride = output_stride
        self.backbone = BACKBONES[backbone].build(output_stride=output_stride, classifier=classifier)

    def features(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float (B, channels, h, w) at the backbone's stride."""
        return self.backbone(self.normalize(images))


class DeepLab(BackboneNetwork):
    """Images uint8 (B, 3, H, W) -> logits float (B, C+1, h, w) on the stride-8 grid, 0 = background.

    Keywords are params `network`.
    """

    def __init__(
        self,
        *,
        classes: int,
        backbone: str,
        output_stride: int,
        input: str,
        head: str,
        head_channels: int,
        head_layers: int,
        rates: list[int],
        dropout: float,
        init_std: float,
        features_rms: float = 1.0,
    ) -> None:
        if head == "largefov" and len(rates) != 1:
            raise ValueError(f"head largefov has one branch, so one rate, not {rates}")
        super().__init__(backbone=backbone, output_stride=output_stride, input=input, classifier=False)
        branch = {"channels": head_channels, "layers": head_layers, "dropout": dropout, "init_std": init_std}
        self.head = ASPP(self.backbone.channels, classes + 1, rates=rates, **branch, features_rms=features_rms)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.features(images)).float()
        height, width = images.shape[2:]
        logits = corner_aligned(logits, stride=self.output_stride, height=height, width=width)
        grid = grid_size(height), grid_size(width)
        return logits if logits.shape[2:] == grid else F.interpolate(logits, grid, mode="bilinear", align_corners=True)


class CamClassifier(BackboneNetwork):
    """Images uint8 (B, 3, H, W) -> scores float (B, C), the means of the class activation maps.

    The last layer has no bias, so that a class's score is the mean of its map (Zhou et al. 2016, as in SEC). VGG16 has
    SEC's two layers before it; every backbone has dropout before it. Of SEC's layers the last alone learns fast.

    later: classifiers of the further rounds of adversarial erasing, each trained on images without the cells whose
    activation in one of the rounds before was above `erase_thresh`, as a share of its maximum.
    """

    def __init__(
        self,
        *,
        classes: int,
        backbone: str,
        output_stride: int,
        input: str,
        dropout: float,
        init_std: float,
        erase_rounds: int = 1,
        erase_thresh: float = 1.0,
    ) -> None:
        super().__init__(backbone=backbone, output_stride=output_stride, input=input, classifier=True)
        widths = BACKBONES[backbone].cam_channels
        self.inner = cam_layers(self.backbone.channels, channels=widths, dropout=dropout, init_std=init_std)
        self.head = nn.Conv2d((self.backbone.channels, *widths)[-1], classes, 1, bias=False)
        nn.init.normal_(self.head.weight, std=init_std)
        same = {"backbone": backbone, "output_stride": output_stride, "input": input}
        same |= {"classes": classes, "dropout": dropout, "init_std": init_std}
        self.later = nn.ModuleList(CamClassifier(**same) for _ in range(erase_rounds - 1))
        self.erase_thresh = erase_thresh

    def maps_of(self, features: Tensor) -> Tensor:
        """Class activation maps float (B, C, h, w) of the backbone's features (B, channels, h, w)."""
        return self.head(self.inner(features)).float()

    def maps(self, images: Tensor) -> Tensor:
        """Class activation maps float (B, C, h, w), positive and negative evidence, at the backbone's stride."""
        return self.maps_of(self.features(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean(dim=(2, 3))
