"""Backbones of the library timm (extra `timm`): any of its models that has features at stride 8 or 16."""

from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsrg.errors import InputError, one_line

PADDED_TO = 32  # pixels; every timm model takes sides that are multiples of its stride


def timm_features(name: str, *, output_stride: int, classifier: bool, weights: str | None = None) -> nn.Sequential:
    """A backbone as `networks.backbones` describes them: normalized images (B, 3, H, W) -> (B, channels, h, w).

    weights: None = random; "imagenet" = timm's own; a path = a checkpoint of that model as timm saves it. Batch norm is
    frozen, as in the other backbones. Raises InputError if timm or the model is missing, or its stride is another.
    """
    model = _create(name, output_stride=output_stride, weights=weights)
    import_module("timm.layers").freeze_batch_norm_2d(model)
    reduction, channels = model.feature_info.reduction()[-1], model.feature_info.channels()[-1]
    if reduction not in (8, 16):
        raise InputError(f"network.backbone: timm:{name}: its features have stride {reduction}; expected 8 or 16")
    features = nn.Sequential(AlignToGrid(model, reduction=reduction, stride=output_stride, patches=_in_patches(model)))
    features.channels = channels
    return features


class AlignToGrid(nn.Module):
    """A model whose last features are brought to the cells at every `stride`-th pixel, from the first on.

    The cells of a network of patches lie in the middle of their `reduction` pixels, those of one with padded
    convolutions on every `reduction`-th pixel. Between them features are interpolated (bilinear, the edge repeated).
    """

    def __init__(self, model: nn.Module, *, reduction: int, stride: int, patches: bool) -> None:
        super().__init__()
        self.model, self.reduction, self.stride = model, reduction, stride
        self.first = (reduction - 1) / 2 if patches else 0.0

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        beyond = (0, -width % PADDED_TO, 0, -height % PADDED_TO)
        features = self.model(F.pad(images, beyond, mode="replicate"))[-1]
        rows, columns = (
            self._weights(pixels, cells, features)
            for pixels, cells in zip((height, width), features.shape[2:], strict=True)
        )
        return rows @ features @ columns.T

    def _weights(self, pixels: int, cells: int, features: Tensor) -> Tensor:
        """Matrix (wanted cells, cells) of linear interpolation along one side."""
        wanted = torch.arange(0, pixels, self.stride, device=features.device)
        places = ((wanted - self.first) / self.reduction).clamp(0, cells - 1)
        distance = (places[:, None] - torch.arange(cells, device=features.device)).abs()
        return (1 - distance).clamp(min=0).to(features.dtype)


def _create(name: str, *, output_stride: int, weights: str | None) -> nn.Module:
    if find_spec("timm") is None:
        raise InputError(f"network.backbone: timm:{name}: timm is not installed; run: pip install '.[timm]'")
    timm = import_module("timm")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=1)
        hint = f"did you mean timm:{near[0]}?" if near else "see timm.list_models()"
        raise InputError(f"network.backbone: timm:{name}: no such model; {hint}")
    source = {"pretrained": weights is not None}
    if weights not in (None, "imagenet"):
        source["pretrained_cfg_overlay"] = {"file": weights}
    for shape in ({"output_stride": output_stride}, {"dynamic_img_size": True}):  # convolutions; transformers
        try:
            return timm.create_model(name, features_only=True, **source, **shape)
        except (TypeError, NotImplementedError):
            continue
        except Exception as error:  # no network, a broken file, a model without features: timm raises many kinds
            raise InputError(f"network.backbone: timm:{name}: cannot be used ({one_line(error)})") from None
    raise InputError(f"network.backbone: timm:{name}: takes neither an output stride nor images of any size")


def _in_patches(model: nn.Module) -> bool:
    """Does it cut the image into patches, each seen by itself, as ViT and ConvNeXt do?"""
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    first = next(module for module in convolutions if max(module.stride) > 1)
    return first.kernel_size == first.stride and max(first.padding) == 0
