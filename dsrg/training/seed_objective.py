"""Learning from seeds that grow: the objective of DSRG training (paper section 3.3)."""

import torch
from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.method.losses import boundary_loss, expand_loss, seeding_loss, smoothed_softmax
from dsrg.method.seeds import agreed_seeds
from dsrg.params import Dsrg
from dsrg.training.fit import Objective
from dsrg.training.processes import total
from dsrg.training.supervision import Supervisor, class_shares


def seed_objective(settings: Dsrg, *, supervisor: Supervisor) -> Objective:
    """Seeding loss on the grown seeds plus, as the settings say, boundary (paper section 3.2) and expand loss (SEC).

    settings: params `dsrg`; `supervisor` must run the CRF for the boundary loss.

    Its values, beside the losses, are shares of the batch's pixels. Vectors (C+1,), background first: `seeds`, labelled
    by a seed; `agreed`, by a seed whose class the network predicts too; `grown`, by what it learns from. Scalars:
    `foreground`, `background` of grown, `seed_foreground`, `seed_background` of seeds, and `agreement`, agreed / seeds.
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
        values = {name: value.detach() for name, value in {"loss": loss, **losses}.items()}
        return loss, values | labelled_shares(batch.labels, probs.detach(), supervision.labels)

    return objective


def labelled_shares(seeds: Tensor, probs: Tensor, grown: Tensor) -> dict[str, Tensor]:
    """How much is labelled, and what the network makes of its seeds: values that `seed_objective` describes.

    seeds, grown uint8 (B, h, w); probs float (B, C+1, h, w). Waits for nothing on the device.
    """
    maps = {"seeds": seeds, "agreed": agreed_seeds(seeds, probs.argmax(dim=1)), "grown": grown}
    shares = {name: class_shares(labels, classes=probs.shape[1] - 1) for name, labels in maps.items()}
    # pixels count alike, in whichever process's part of the batch they are
    counts = torch.stack([(shares["seeds"] - shares["agreed"]).sum(), shares["seeds"].sum()]) * len(seeds)
    contradicted, seeded = total(counts)
    return {
        "foreground": shares["grown"][1:].sum(),
        "background": shares["grown"][0],
        "seed_foreground": shares["seeds"][1:].sum(),
        "seed_background": shares["seeds"][0],
        # a batch without any seed has no seed that is contradicted
        "agreement": 1 - contradicted / seeded.clamp(min=1e-12),
        **shares,
    }
