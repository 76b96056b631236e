"""Learning label maps: the objective of retraining."""

import torch.nn.functional as F
from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.method.label_maps import UNLABELLED
from dsrg.method.losses import seeding_loss, smoothed_softmax
from dsrg.training.fit import Objective


def mask_objective(*, loss: str, min_prob: float) -> Objective:
    """Loss on label maps, 255 ignored: "cross_entropy", mean over labelled pixels (released code), or "balanced",
    the balanced seeding loss, in which foreground weighs as much as background however small it is.

    min_prob: see `smoothed_softmax`; used by the balanced loss only.
    """

    def objective(network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        logits = network(batch.images).float()
        if loss == "balanced":
            value = seeding_loss(smoothed_softmax(logits, min_prob=min_prob), batch.labels, balanced=True)
        else:
            labels = batch.labels.long()
            total = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")
            value = total / (labels != UNLABELLED).sum().clamp(min=1)
        return value, {"loss": value.detach()}

    return objective
