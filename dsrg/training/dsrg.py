"""DSRG training (paper section 3.3): the CRF once a step, seeds grown on it, losses on what has grown."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.inference.crf import dense_crf_over_workers
from dsrg.method.crf import clamped, unary_energies
from dsrg.method.grid import STRIDE
from dsrg.method.growing import grow
from dsrg.method.losses import boundary_loss, seeding_loss, smoothed_softmax
from dsrg.method.seeds import agreed_seeds
from dsrg.params import Dsrg, Grow, TrainCrf
from dsrg.training.collectives import all_reduce_sum
from dsrg.training.fit import Criterion


class Supervision(NamedTuple):
    """labels: grown seeds, uint8 (B, h, w); crf_probs: float (B, C+1, h, w), or None where nothing needs the CRF."""

    labels: Tensor
    crf_probs: Tensor | None


class Supervisor:
    """Turns the network's present probabilities into labels, always starting from the seeds again.

    crf: params `crf.train`. grow: params `grow`; for `on: both` see `confidence`. boundary_loss: whether the step needs
    the CRF's output for its loss.
    """

    def __init__(self, *, crf: TrainCrf, grow: Grow, boundary_loss: bool) -> None:
        self.crf, self.grow, self.boundary_loss = crf, grow, boundary_loss

    @torch.no_grad()
    def __call__(self, images: Tensor, probs: Tensor, seeds: Tensor, present: Tensor, *, step: int) -> Supervision:
        """images uint8 (B, 3, S, S), probs float32 (B, C+1, h, w), seeds uint8 (B, h, w), present bool (B, C+1)."""
        growing = self.grow.enabled and step >= self.grow.start
        crf_probs = None
        if self.boundary_loss or (growing and self.grow.on != "softmax"):
            crf_probs = self.crf_probs(images, probs)
        if not growing:
            return Supervision(seeds, crf_probs)
        deciding = self.growth_probs(probs, crf_probs, present)
        thresholds = {"fg_thresh": self.grow.fg_thresh, "bg_thresh": self.grow.bg_thresh}
        return Supervision(grow(seeds, deciding, present, **thresholds), crf_probs)

    def crf_probs(self, images: Tensor, probs: Tensor) -> Tensor:
        """The CRF's probabilities, float32 (B, C+1, h, w)."""
        small = images[:, :, ::STRIDE, ::STRIDE]  # the aligned-corners resize of an 8k+1 square to its grid
        energies = unary_energies(probs, unary=self.crf.unary, min_prob=self.crf.min_prob)
        return clamped(dense_crf_over_workers(small, energies, **self.crf.kernel), min_prob=self.crf.min_prob)

    def growth_probs(self, probs: Tensor, crf_probs: Tensor | None, present: Tensor) -> Tensor:
        """The probabilities that growth goes by, float32 (B, C+1, h, w); "softmax" needs no crf_probs."""
        if self.grow.on == "both":
            return confidence(probs, crf_probs, present)
        return crf_probs if self.grow.on == "crf" else probs


def confidence(probs: Tensor, crf_probs: Tensor, present: Tensor) -> Tensor:
    """The CRF says which class, the network how sure it is: float (B, C+1, h, w), 0 but for the CRF's class.

    The CRF's own output is nearly one-hot, so a threshold on it decides nothing. Here each pixel has the network's
    probability, among the image's classes, of the class that the CRF gives it. Not of the paper.
    """
    absent = ~present[:, :, None, None]
    winner = crf_probs.masked_fill(absent, -1).argmax(dim=1, keepdim=True)
    among_tags = probs.masked_fill(absent, 0)
    among_tags = among_tags / among_tags.sum(dim=1, keepdim=True)
    return torch.zeros_like(probs).scatter_(1, winner, among_tags.gather(1, winner))


def dsrg_criterion(settings: Dsrg, *, supervisor: Supervisor) -> Criterion:
    """Seeding loss on the grown seeds plus, as the settings say, boundary loss (paper section 3.2).

    settings: params `dsrg`; `supervisor` must run the CRF for the boundary loss.

    Its values, beside the losses, are shares of the batch's pixels. Vectors (C+1,), background first: `seeds`, labeled
    by a seed; `agreed`, by a seed whose class the network predicts too; `grown`, by what it learns from. Scalars:
    `foreground`, `background` of grown, `seed_foreground`, `seed_background` of seeds, `agreement`, agreed / seeds, and
    of what the network predicts `predicted_background`, `predicted_tagged` and `predicted_absent`.
    """

    def criterion(network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        probs = smoothed_softmax(network(batch.images).float(), min_prob=settings.min_prob)
        supervision = supervisor(batch.images, probs, batch.labels, batch.present, step=step)
        losses = {"seeding_loss": seeding_loss(probs, supervision.labels, balanced=settings.seed_loss == "balanced")}
        if settings.boundary_loss:
            clip, gradient = settings.boundary_clip, settings.crf_gradient
            boundary = boundary_loss(probs, supervision.crf_probs, ratio_clip=clip, crf_gradient=gradient)
            losses["boundary_loss"] = boundary
        loss = sum(losses.values())
        values = {name: value.detach() for name, value in {"loss": loss, **losses}.items()}
        return loss, values | labeled_shares(batch.labels, probs.detach(), supervision.labels, batch.present)

    return criterion


def labeled_shares(seeds: Tensor, probs: Tensor, grown: Tensor, present: Tensor) -> dict[str, Tensor]:
    """How much is labeled, and what the network makes of its seeds: values that `dsrg_criterion` describes.

    seeds, grown uint8 (B, h, w); probs, or logits, float (B, C+1, h, w); present bool (B, C+1). Waits for nothing on
    the device.
    """
    predicted = probs.argmax(dim=1)
    tagged = present.gather(1, predicted.flatten(1)).float().mean()  # or background
    background = (predicted == 0).float().mean()
    maps = {"seeds": seeds, "agreed": agreed_seeds(seeds, predicted), "grown": grown}
    shares = {name: class_shares(labels, classes=probs.shape[1] - 1) for name, labels in maps.items()}
    # pixels count alike, in whichever process's part of the batch they are
    counts = torch.stack([(shares["seeds"] - shares["agreed"]).sum(), shares["seeds"].sum()]) * len(seeds)
    contradicted, seeded = all_reduce_sum(counts)
    return {
        "foreground": shares["grown"][1:].sum(),
        "background": shares["grown"][0],
        "seed_foreground": shares["seeds"][1:].sum(),
        "seed_background": shares["seeds"][0],
        # a batch without any seed has no seed that is contradicted
        "agreement": 1 - contradicted / seeded.clamp(min=1e-12),
        "predicted_background": background,
        "predicted_tagged": tagged - background,
        "predicted_absent": 1 - tagged,
        **shares,
    }


def class_shares(labels: Tensor, *, classes: int) -> Tensor:
    """Shares of all pixels that are labeled background and each class, float (classes + 1,); labels uint8 (B, h, w).

    Waits for nothing on the device, unlike `bincount`.
    """
    numbers = torch.arange(classes + 1, dtype=labels.dtype, device=labels.device)
    return (labels.flatten() == numbers[:, None]).float().mean(dim=1)
