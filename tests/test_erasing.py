"""Adversarial erasing: what is painted over, which maps the rounds give together, and a run of the stages."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from dsrg.artifacts.model_file import load_model
from dsrg.artifacts.seeds_h5 import read_seeds
from dsrg.data.batches import PAD_COLOR, erase
from dsrg.data.classes import read_classes
from dsrg.errors import RunError
from dsrg.files import sha256
from dsrg.inference.cams import activation_maps, erased_cells, load_classifier, stored_cams, tag_maps
from dsrg.inspect.run import Run
from dsrg.project import load_project
from dsrg.training.cam import cam_criterion
from helpers.project import run_stage, tiny_project

LOOK = {"size": 33, "scales": [1.0], "flip": False}


def test_painted_cells_have_exactly_the_mean_color():
    image = np.full((9, 17, 3), 7, np.uint8)
    cells = np.zeros((3, 5), bool)
    cells[0, 4] = cells[2, 0] = True
    painted = erase(image, cells)
    rows, columns = np.nonzero((painted == PAD_COLOR).all(axis=2))
    assert {*zip(rows.tolist(), columns.tolist(), strict=True)} == {
        *((y, x) for y in range(3) for x in range(14, 17)),
        *((y, x) for y in range(6, 9) for x in range(3)),
    }
    assert (painted[(painted != PAD_COLOR).any(axis=2)] == 7).all()
    assert np.array_equal(erase(image, ~cells | cells), np.broadcast_to(np.uint8(PAD_COLOR), image.shape))


class Bright(nn.Module):
    """A classifier whose one class is brightness beyond that of the paint."""

    output_stride, erase_thresh = 8, 0.5

    def __init__(self, *later: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.later = nn.ModuleList(later)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1, ::8, ::8].float() - PAD_COLOR[0]


def test_every_round_finds_the_best_of_the_rest():
    image = np.zeros((33, 33, 3), np.uint8)
    image[8, 8], image[24, 24] = 250, 150  # the second has .2 of the first's evidence
    tags = torch.tensor([[True, True]])
    one, two = (tag_maps(Bright(*later), [image], tags, **LOOK)[0, 0] for later in ((), (Bright(),)))
    assert (one > 0.5).nonzero().tolist() == [[1, 1]] and (two > 0.5).nonzero().tolist() == [[1, 1], [3, 3]]
    assert torch.equal(one, stored_cams(activation_maps(Bright(), [image], **LOOK), tags)[0, 0])
    assert not tag_maps(Bright(Bright()), [image], torch.tensor([[True, False]]), **LOOK).any()


@pytest.fixture(scope="module", params=[1, 3], ids=["1 round", "3 rounds"])
def project(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        cam = {"erase_rounds": request.param, "erase_thresh": 0.6}
        monkeypatch.chdir(tiny_project(tmp_path_factory.mktemp("erasing"), cam=cam))
        for name in ("draw_shapes", "prepare", "train_cam", "make_seeds"):
            run_stage(name)
        yield load_project()


def test_rounds_from_the_stages(project):
    rounds, classes = project.params.cam.erase_rounds, read_classes(project.paths.classes)
    classifier = load_classifier(project.paths.cam, classes=classes)
    metrics = json.loads((project.paths.results / "train_cam/metrics.json").read_text())
    model = load_model(project.paths.cam, kind="classifier", stage_name="train_cam")
    assert len(classifier.later) == rounds - 1 and ("erase_rounds" in model.network) == (rounds > 1)
    steps = [
        int(line.split("\t")[0])
        for line in (project.paths.results / "train_cam/curves.tsv").read_text().splitlines()[1:]
    ]
    assert steps == sorted(steps) and steps[-1] == rounds * project.params.cam.steps and len(steps) % rounds == 0
    run_ = Run(project)
    size, train = project.params.data.size, run_.index.split("train")
    shares = []
    for count in range(1, rounds):
        classifier.later, later = classifier.later[: count - 1], classifier.later
        shares.append(erased_cells(classifier, train, size=size).mean())
        classifier.later = later
    assert metrics.get("erased", []) == pytest.approx(shares, abs=1e-6) and shares == sorted(shares)
    weights = [classifier.state_dict(), *(one.state_dict() for one in classifier.later)]
    assert all(not torch.equal(one["head.weight"], weights[0]["head.weight"]) for one in weights[1:])
    # what the seeds file has is what all rounds give
    stored = read_seeds(project.paths.seeds, classes=classes)
    look = {"size": size, "scales": project.params.seeds.scales, "flip": project.params.seeds.flip}
    images, tags = [run_.image(image_id) for image_id in train.ids], torch.from_numpy(train.present)
    found = tag_maps(classifier, images, tags, **look)
    for maps, image_id in zip(found, train.ids, strict=True):
        assert all(np.allclose(cam, maps[number - 1], atol=2e-3) for number, cam in stored.maps(image_id)[1].items())
    alone = stored_cams(activation_maps(classifier, images, **look), tags)
    assert (found >= alone).all() and (rounds == 1) == torch.equal(found, alone)


def test_killed_in_a_later_round_it_ends_with_the_same_bits(project, monkeypatch, capsys):
    if project.params.cam.erase_rounds == 1:
        pytest.skip("has no later round")
    before, seen = sha256(project.paths.cam), []

    def breaking(*settings):
        learn = cam_criterion(*settings)

        def criterion(network, batch, step):
            seen.append(step)
            if len(seen) == project.params.cam.steps + 7:
                raise RunError("no more")
            return learn(network, batch, step)

        return criterion

    monkeypatch.setenv("DSRG_CHECKPOINT_STEPS", "4")
    with monkeypatch.context() as broken, pytest.raises(RunError, match="no more"):
        broken.setattr("dsrg.training.cam.cam_criterion", breaking)
        run_stage("train_cam")
    run_stage("train_cam")
    assert sha256(project.paths.cam) == before
    assert "going on from step 4 of 12" in capsys.readouterr().out
