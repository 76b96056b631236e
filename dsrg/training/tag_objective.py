"""Learning tags: the classifier's objective (paper section 3.1; SEC's multi-label logistic loss)."""

import torch.nn.functional as F
from torch import Tensor, nn

from dsrg.data.batches import Batch


def tag_objective(network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over classes of sigmoid cross-entropy between scores and tags."""
    loss = F.binary_cross_entropy_with_logits(network(batch.images), batch.present[:, 1:].float())
    return loss, {"loss": loss.detach()}
