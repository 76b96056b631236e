"""Learning label maps: the loss of retraining."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.method.grid import UNLABELED
from dsrg.method.losses import seeding_loss, smoothed_softmax
from dsrg.params import Retrain
from dsrg.training.collectives import all_reduce_sum
from dsrg.training.fit import Criterion


def retrain_criterion(settings: Retrain) -> Criterion:
    """Loss on label maps, 255 ignored: "cross_entropy", mean over labeled pixels (released code), or "balanced",
    the balanced seeding loss, in which foreground weighs as much as background however small it is.

    settings: params `retrain`: loss, and min_prob, see `smoothed_softmax`, for the balanced one.
    """

    def criterion(network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        logits = network(batch.images).float()
        if settings.loss == "balanced":
            value = seeding_loss(smoothed_softmax(logits, min_prob=settings.min_prob), batch.labels, balanced=True)
        else:
            labels = batch.labels.long()
            summed = F.cross_entropy(logits, labels, ignore_index=UNLABELED, reduction="sum")
            # pixels count alike, in whichever process's part of the batch they are
            counts = (labels != UNLABELED).sum(), labels.new_full((), len(labels))
            labeled, images = all_reduce_sum(torch.stack(counts))
            value = summed / labeled.clamp(min=1) * (images / len(labels))
        return value, {"loss": value.detach()}

    return criterion
