"""A small training that several processes may share. As a script: FOLDER KIND [FATE], see `train`."""

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dsrg.data.batches import Batches
from dsrg.data.index import Index
from dsrg.networks.heads import BatchDropout
from dsrg.params import Cam, Dsrg, Grow, Retrain, TrainCrf, Training
from dsrg.runtime.launcher import SINGLE_PROCESS, LaunchConfig, topology
from dsrg.training.cam import cam_criterion
from dsrg.training.dsrg import Supervisor, dsrg_criterion
from dsrg.training.fit import Criterion, fit, set_up_torch
from dsrg.training.retrain import retrain_criterion
from helpers.data import picture, save_index
from helpers.project import recipe

STEPS, BATCH, SIZE = 50, 5, 33
SGD = {
    **{"name": "sgd", "lr": 0.005, "momentum": 0.9, "beta2": 0.999, "weight_decay": 5e-4},
    **{"head_lr": 2.0, "bias_lr": 2.0},
    **{"schedule": "poly", "step_every": 10, "step_factor": 0.1, "poly_power": 0.9, "warmup": 2},
}
AUGMENT = {"shape": "square", "flip": True, "scale_min": 0.8, "scale_max": 1.2, "color": 0.1}
SETTINGS = Training(
    **{"network": None, "steps": STEPS, "batch": BATCH, "precision": "fp32", "skip_bad_steps": 0},
    **{"optimizer": SGD, "augment": AUGMENT},
)


def images(folder: Path) -> tuple[Index, np.ndarray]:
    """Eight pictures of two classes and label maps, some with hardly a labeled pixel."""
    pictures, tagged = {}, []
    for k in range(8):
        pictures[f"im{k}"] = picture(30, 40, seed=k) // 4
        pictures[f"im{k}"][..., k % 2] += 150
        tagged.append([k % 2 == 0, k % 2 == 1])
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((8, 5, 5)) < np.linspace(0.05, 1, 8)[:, None, None], 0, 255).astype(np.uint8)
    labels[:, 1, 1:3] = np.arange(8)[:, None] % 2 + 1
    return save_index(folder, pictures, tagged), labels


class Small(nn.Module):
    """Scores of three classes on the grid; or of two for a whole image. Starts quickly, for it imports little."""

    new_layers = ()

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        widths = 3, 8, 16, 16
        layers = [
            nn.Sequential(nn.Conv2d(*pair, 3, stride=2, padding=1), nn.GroupNorm(4, pair[1]), nn.ReLU())
            for pair in itertools.pairwise(widths)
        ]
        self.layers = nn.Sequential(*layers, BatchDropout(0.5), nn.Conv2d(16, 2 if whole else 3, 1))
        self.whole = whole

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = self.layers(images.float() / 128 - 1)
        return scores.mean(dim=(2, 3)) if self.whole else scores


def objective_of(kind: str) -> Criterion:
    """What is learned: "tags", "seeds" that grow, or masks by "cross_entropy" or "balanced" loss."""
    if kind == "tags":
        return cam_criterion(Cam(**recipe()["cam"] | {"score_scale": 1.0, "score_offset": 0.0}))
    if kind != "seeds":
        return retrain_criterion(Retrain(**recipe()["retrain"] | {"loss": kind, "min_prob": 1e-4}))
    values = recipe()
    supervisor = Supervisor(
        crf=TrainCrf(**values["crf"]["train"]), grow=Grow(**values["grow"] | {"start": 20}), boundary_loss=True
    )
    switches = {"boundary_loss": True, "seed_loss": "balanced"}
    return dsrg_criterion(Dsrg(**(values["dsrg"] | switches)), supervisor=supervisor)


def train(
    folder: Path,
    kind: str,
    *,
    topology: LaunchConfig = SINGLE_PROCESS,
    fate: tuple[int, int, int] | None = None,
    on_step_end: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module | None:
    """Train in `folder`; fate = (rank, step, signal): what befalls a process."""
    torch.set_num_threads(1)
    index, labels = images(folder)
    set_up_torch(3)
    network, objective = Small(whole=kind == "tags"), objective_of(kind)

    def dangerous(network, batch, step):
        if fate is not None and fate[:2] == (torch.distributed.get_rank(), step):
            os.kill(os.getpid(), fate[2])
        return objective(network, batch, step)

    maps = None if kind == "tags" else labels
    batches = Batches(index, labels=maps, size=SIZE, batch=BATCH, seed=1, augment=SETTINGS.augment)
    places = {"scratch": folder / "scratch", "fingerprint": "together", "curves": folder / "curves.tsv"}
    options = {"name": kind, "topology": topology, "on_step_end": on_step_end, **places}
    return fit(network, dangerous, batches, SETTINGS, **options)


if __name__ == "__main__":
    folder, kind, *fate = sys.argv[1:]
    trained = train(Path(folder), kind, topology=topology(), fate=tuple(map(int, fate)) or None)
    if trained is not None:
        torch.save(trained.state_dict(), Path(folder) / "weights.pt")
