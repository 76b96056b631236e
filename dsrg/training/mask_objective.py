"""Learning label maps: the objective of retraining."""

import torch.nn.functional as F
from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.method.growing import UNLABELLED


def mask_objective(network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on label maps, mean over labelled pixels; 255 is ignored."""
    logits, labels = network(batch.images).float(), batch.labels.long()
    total = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")
    loss = total / (labels != UNLABELLED).sum().clamp(min=1)
    return loss, {"loss": loss.detach()}
