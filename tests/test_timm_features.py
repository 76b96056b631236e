"""Backbones of timm: the contract of all backbones, for a ResNet, a ConvNeXt and a ViT."""

from functools import partial

import pytest
import torch
from torch import nn

from dsrg.errors import InputError
from dsrg.networks import timm_features as module
from dsrg.networks.backbones import BACKBONES, Backbone
from dsrg.networks.network import CamClassifier, DeepLab
from dsrg.networks.timm_features import AlignToGrid, timm_features
from helpers.command import run_dsrg
from helpers.dvc_yaml import STAGES
from helpers.networks import NETWORK
from helpers.project import run_stage, tiny_project


@pytest.mark.parametrize("patches", [True, False])
@pytest.mark.parametrize("reduction, stride", [(8, 8), (16, 8), (16, 16)])
def test_cells_lie_on_every_stride_th_pixel(reduction, stride, patches):
    """The mean place of a patch's pixels, or the place of every n-th pixel, becomes the place of the cell."""
    if patches:
        see = nn.AvgPool2d(reduction)
    else:
        see = nn.AvgPool2d(1, stride=reduction)
    across = torch.arange(65.0).expand(1, 1, 33, 65)
    features = AlignToGrid(lambda images: [see(images)], reduction=reduction, stride=stride, patches=patches)(across)
    assert features.shape == (1, 1, 32 // stride + 1, 64 // stride + 1)
    expected = torch.arange(0.0, 65.0, stride)
    inner = (expected > 0) & (expected <= 64 - reduction)  # patches that reach beyond the edge see it repeated
    torch.testing.assert_close(features[0, 0, 0, inner], expected[inner])
    assert (features[0, 0] == features[0, 0, :1]).all()


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("stride", [8, 16])
def test_contract(name, stride, monkeypatch):
    pytest.importorskip("timm", reason="timm is not installed; pip install '.[timm]'")
    monkeypatch.setitem(BACKBONES, name, Backbone(partial(timm_features, name)))
    torch.manual_seed(0)
    segmenter = DeepLab(classes=2, **NETWORK | {"backbone": name, "output_stride": stride}).train()
    images = torch.randint(0, 256, (2, 3, 65, 41), dtype=torch.uint8)
    logits = segmenter(images)
    assert logits.shape == (2, 3, 9, 6)
    logits.sum().backward()
    silent = [key for key, value in segmenter.backbone.named_parameters() if value.grad is None]
    assert not [key for key in silent if "norm" not in key], "every layer learns"
    assert not [layer for layer in segmenter.modules() if isinstance(layer, nn.BatchNorm2d)], "norms are frozen"
    with torch.no_grad():
        torch.testing.assert_close(segmenter.eval()(images[:1]), segmenter(images)[:1], atol=1e-4, rtol=1e-4)
    classifier = CamClassifier(
        classes=2, backbone=name, output_stride=stride, input="torchvision", dropout=0, init_std=0.01
    )
    assert classifier(images).shape == (2, 2)
    assert classifier.backbone.state_dict().keys() == segmenter.backbone.state_dict().keys()


def test_the_pipeline_to_masks_and_a_file_for_others(tmp_path, monkeypatch):
    """A small model of timm's own, through every stage, `predict` and `export`."""
    pytest.importorskip("timm", reason="timm is not installed; pip install '.[timm]'")
    short = {"steps": 2, "batch": 2}
    network = {"backbone": "timm:test_convnext", "output_stride": 16, "head_channels": 8, "rates": [1]}
    shapes = {"train": 4, "val": 2}
    tiny_project(tmp_path, shapes=shapes, network=network, cam=short, dsrg=short, retrain=short)
    monkeypatch.chdir(tmp_path)
    for stage in STAGES:
        run_stage(stage)
    for command in ("predict data/shapes/JPEGImages --out masks", "export --format torch --scale 1 --out on.pt2"):
        run_dsrg(*command.split())
    assert len(list((tmp_path / "masks/masks").iterdir())) == 6
    assert "backbone: timm:test_convnext" in (tmp_path / "on.md").read_text()


def test_refusals(monkeypatch, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed; pip install '.[timm]'")
    options = {"output_stride": 16, "classifier": False}
    with pytest.raises(InputError, match="timm:resnet81: no such model; did you mean timm:resnet"):
        timm_features("resnet81", **options)
    with pytest.raises(InputError, match="vit_tiny_patch32|stride 32; expected 8 or 16"):
        timm_features(next(one for one in timm.list_models("vit_*_patch32_224")), **options)
    (tmp_path / "broken.pth").write_bytes(b"no")
    with pytest.raises(InputError, match="timm:resnet18: cannot be used"):
        timm_features("resnet18", weights=str(tmp_path / "broken.pth"), **options)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        timm_features("resnet18", **options)


def test_weights_of_a_file(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed; pip install '.[timm]'")
    torch.manual_seed(3)
    theirs = timm.create_model("resnet18")
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = timm_features("resnet18", output_stride=16, classifier=False, weights=str(tmp_path / "theirs.pth"))
    state = {key.removeprefix("0.model."): value for key, value in ours.state_dict().items()}
    torch.testing.assert_close(state["layer4.1.conv2.weight"], theirs.state_dict()["layer4.1.conv2.weight"])
