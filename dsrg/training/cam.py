"""Learning tags: the classifier's loss (paper section 3.1; SEC's multi-label logistic loss)."""

import torch.nn.functional as F
from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.params import Cam
from dsrg.training.fit import Criterion


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
