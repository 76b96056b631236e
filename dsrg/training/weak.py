"""Training by the loss of another method, one of dsrg.method.weak, in the place of DSRG's own."""

from collections.abc import Callable
from inspect import signature

from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.method.losses import mean_or_zero
from dsrg.method.weak import LOSSES
from dsrg.params import Dsrg, Grow, TrainCrf, Weak
from dsrg.training.dsrg import Supervisor, dsrg_criterion, labeled_shares
from dsrg.training.fit import Criterion


def build_criterion(dsrg: Dsrg, weak: Weak, *, grow: Grow, crf: TrainCrf) -> tuple[Criterion, Supervisor]:
    """What `dsrg.objective` names, and the labels that are recorded: seeds grow under DSRG's own criterion only."""
    own = dsrg.objective == "dsrg"
    growing = grow.model_copy(update={"enabled": grow.enabled and own})
    supervisor = Supervisor(crf=crf, grow=growing, boundary_loss=own and dsrg.boundary_loss)
    if own:
        return dsrg_criterion(dsrg, supervisor=supervisor), supervisor
    settings = getattr(weak, dsrg.objective).model_dump()
    return weak_criterion(LOSSES[dsrg.objective], settings, crf=supervisor.crf_probs), supervisor


def weak_criterion(
    loss: Callable[..., Tensor], settings: dict, *, crf: Callable[[Tensor, Tensor], Tensor]
) -> Criterion:
    """Mean over images of one of the `LOSSES`; `crf` is for those that have such a parameter.

    Its values, beside `loss`, are those of `dsrg_criterion`, of seeds that do not grow.
    """
    if "crf" in signature(loss).parameters:
        settings = settings | {"crf": crf}

    def criterion(network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        logits = network(batch.images).float()
        seen = {"present": batch.present, "seeds": batch.labels, "images": batch.images}
        value = mean_or_zero(loss(logits, **seen, step=step, **settings))
        shares = labeled_shares(batch.labels, logits.detach(), batch.labels, batch.present)
        return value, {"loss": value.detach(), **shares}

    return criterion
