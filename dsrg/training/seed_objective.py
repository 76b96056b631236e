"""Learning from seeds that grow: the objective of DSRG training (paper section 3.3)."""

from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.method.losses import boundary_loss, expand_loss, seeding_loss, smoothed_softmax
from dsrg.params import Dsrg
from dsrg.training.fit import Objective
from dsrg.training.supervision import Supervisor, labelled_share


def seed_objective(settings: Dsrg, *, supervisor: Supervisor) -> Objective:
    """Seeding loss on the grown seeds plus, as the settings say, boundary (paper equation 4) and expand loss (SEC).

    settings: params `dsrg`; `supervisor` must run the CRF for the boundary loss.
    """

    def objective(network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        probs = smoothed_softmax(network(batch.images).float(), min_prob=settings.min_prob)
        supervision = supervisor(batch.images, probs, batch.labels, batch.present, step=step)
        losses = {"seeding_loss": seeding_loss(probs, supervision.labels, balanced=settings.seed_loss == "balanced")}
        if settings.boundary_loss:
            clip, gradient = settings.boundary_clip, settings.crf_gradient
            boundary = boundary_loss(probs, supervision.crf_probs, ratio_clip=clip, crf_gradient=gradient)
            losses["boundary_loss"] = boundary
        if settings.expand_loss:
            decays = {"fg_decay": settings.expand_fg, "bg_decay": settings.expand_bg}
            losses["expand_loss"] = expand_loss(probs, batch.present, **decays)
        loss = sum(losses.values())
        foreground, background = labelled_share(supervision.labels)
        values = {name: value.detach() for name, value in {"loss": loss, **losses}.items()}
        return loss, {**values, "foreground": foreground, "background": background}

    return objective
