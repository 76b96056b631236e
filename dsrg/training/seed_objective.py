"""Learning from seeds that grow: the objective of DSRG training (paper section 3.3)."""

from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.method.losses import boundary_loss, seeding_loss, smoothed_softmax
from dsrg.training.fit import Objective
from dsrg.training.supervision import Supervisor, labelled_share


def seed_objective(*, supervisor: Supervisor, balanced: bool, min_prob: float) -> Objective:
    """Seeding loss on the grown seeds plus, if the supervisor is told so, boundary loss (paper equation 4)."""

    def objective(network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        probs = smoothed_softmax(network(batch.images).float(), min_prob=min_prob)
        supervision = supervisor(batch.images, probs, batch.labels, batch.present, step=step)
        seeding = seeding_loss(probs, supervision.labels, balanced=balanced)
        foreground, background = labelled_share(supervision.labels)
        values = {"seeding_loss": seeding.detach(), "foreground": foreground, "background": background}
        loss = seeding
        if supervisor.boundary_loss:
            boundary = boundary_loss(probs, supervision.crf_probs)
            values["boundary_loss"] = boundary.detach()
            loss = loss + boundary
        return loss, {"loss": loss.detach(), **values}

    return objective
