"""Initial weights: random, ImageNet's from torchvision, or a state dict file of the user's."""

from pathlib import Path

import torch
import torchvision
from torch import nn

from dsrg.errors import InputError
from dsrg.networks.backbones import BACKBONES
from dsrg.networks.network import Classifier, Segmenter


def load_backbone_weights(backbone: nn.Module, *, name: str, weights: str | None) -> set[str]:
    """Fill a backbone from `weights`: null (stay random), "imagenet" (torchvision's) or a path to a state dict.

    Returns the names of the parameters filled. Raises InputError where the weights cannot be had or do not fit.
    """
    if weights is None:
        return set()
    state, source = (_imagenet(name), "torchvision") if weights == "imagenet" else (_from_file(Path(weights)), weights)
    own = backbone.state_dict()
    state = {key.removeprefix("features."): value for key, value in state.items()}
    misshapen = [
        f"network.weights: {source}: {key} is {tuple(state[key].shape)}, {name} needs {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    found = {key: state[key] for key in own if key in state}
    # what ImageNet's network does not have either may be missing, but not some layers in the middle
    new_layers = getattr(backbone, "new_layers", ())
    missing = [key for key in own if key not in state and not key.startswith(tuple(new_layers))]
    if not found:
        raise InputError(f"network.weights: {source}: holds no layer of {name}; expected keys like {missing[0]}")
    if misshapen or missing:
        raise InputError(
            misshapen + [f"network.weights: {source}: {key} of {name} is missing; expected all" for key in missing]
        )
    backbone.load_state_dict(found, strict=False)
    return {key for key, _ in backbone.named_parameters() if key in found}


def _imagenet(name: str) -> dict[str, torch.Tensor]:
    enum = BACKBONES[name].imagenet
    if enum is None:
        raise InputError(f"network.weights: there are no ImageNet weights for {name}; use null")
    entry = getattr(torchvision.models, enum).IMAGENET1K_V1
    try:
        return entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no network, or a broken file: urllib and torch raise many kinds
        place = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"network.weights: imagenet: cannot get {entry.url} ({reason}); download it elsewhere and put it at "
            f"{place}, or give the path of a state dict as network.weights"
        ) from None


def _from_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"network.weights: {path}: no such file") from None
    except Exception as error:
        raise InputError(f"network.weights: {path}: not a state dict ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"network.weights: {path}: expected a state dict (names -> tensors)")
    return state


def initial_segmenter(*, classes: int, weights: str | None, **network: object) -> Segmenter:
    """A segmenter with its backbone filled from `weights`; network: the arguments of Segmenter (params `network`)."""
    segmenter = Segmenter(classes=classes, **network)
    load_backbone_weights(segmenter.backbone, name=network["backbone"], weights=weights)
    return segmenter


def initial_classifier(*, classes: int, weights: str | None, backbone: str, output_stride: int) -> Classifier:
    """A classifier with its backbone filled from `weights`."""
    classifier = Classifier(classes=classes, backbone=backbone, output_stride=output_stride)
    load_backbone_weights(classifier.backbone, name=backbone, weights=weights)
    return classifier


def adopt_backbone(segmenter: Segmenter, classifier_weights: dict[str, torch.Tensor]) -> None:
    """Start a segmenter from a trained classifier's backbone of the same kind, without the layers it lacks."""
    own = segmenter.backbone.state_dict()
    theirs = {key.removeprefix("backbone."): value for key, value in classifier_weights.items()}
    segmenter.backbone.load_state_dict({key: value for key, value in theirs.items() if key in own})
