"""Training the classifier: the loss on tags (paper section 3.1; SEC's), and rounds of adversarial erasing."""

from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.data.index import Index
from dsrg.files import read_text, write_text
from dsrg.inference.cams import erased_cells
from dsrg.networks.network import CamClassifier
from dsrg.networks.weights import pretrained
from dsrg.params import Cam, Params
from dsrg.training.fit import Criterion, batches_of, fit, set_up_torch


def cam_criterion(settings: Cam) -> Criterion:
    """Mean over classes of the sigmoid cross-entropy between scale * score + offset and the tags.

    A score is a mean over the whole map, so a small object moves it little: a scale above 1 lets a network learn from
    scratch, an offset near the log-odds of a tag spares it learning that most tags are absent. Neither touches the
    activation maps. SEC, from ImageNet weights: 1 and 0.
    """

    def criterion(network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        scores = settings.score_scale * network(batch.images) + settings.score_offset
        loss = F.binary_cross_entropy_with_logits(scores, batch.present[:, 1:].float())
        return loss, {"loss": loss.detach()}

    return criterion


def train_classifier(
    params: Params, index: Index, *, classes: int, scratch: Path, curves: Path, **options: object
) -> tuple[CamClassifier | None, list[float]]:
    """The classifier of the images of an index, and the share of their cells erased before each of its later rounds.

    curves: TSV of all rounds, the steps counted on. options: more of `fit`'s. None in all processes but the first.
    """

    def train(folder: Path, target: Path, erased: NDArray[np.bool_] | None = None) -> CamClassifier | None:
        set_up_torch(params.seed)
        network, batches = pretrained(params, "cam", classes=classes), batches_of(params, "cam", index, erased=erased)
        network.erase_thresh = params.cam.erase_thresh
        places = {"scratch": folder, "curves": target}
        return fit(network, cam_criterion(params.cam), batches, params.cam, **places, **options)

    classifier, shares = train(scratch, curves), []
    for number in range(2, params.cam.erase_rounds + 1):
        erased = erased_cells(classifier, index, size=params.data.size)
        shares.append(float(erased.mean()))
        folder = scratch / f"round{number}"
        classifier.later.append(train(folder, folder / "curves.tsv", erased))
        lines = (line.split("\t", 1) for line in read_text(folder / "curves.tsv").splitlines()[1:])
        before = (number - 1) * params.cam.steps
        write_text(curves, read_text(curves) + "".join(f"{int(step) + before}\t{rest}\n" for step, rest in lines))
    return classifier, shares
