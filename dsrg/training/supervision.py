"""What a training step learns from: CRF once, then seeds grown on it (paper section 3.3, "dynamic supervision")."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dsrg.method.crf import clamped, dense_crf, unary_energies
from dsrg.method.growing import grow


@dataclass(frozen=True)
class Supervision:
    """labels: grown seeds, uint8 (B, h, w); crf_probs: float (B, C+1, h, w), or None where nothing needs the CRF."""

    labels: Tensor
    crf_probs: Tensor | None


class Supervisor:
    """Turns the network's present opinion into labels, always starting from the seeds again.

    Args:
        crf: the training CRF's kernel parameters and `unary` (params `crf.train`).
        grow: fg_thresh, bg_thresh, `enabled`, `start` (first step that grows), `on`: the probabilities that decide,
            "crf", "softmax" or "both", see `confidence` (params `grow`).
        boundary_loss: whether the step needs the CRF's output for its loss.
    """

    def __init__(self, *, crf: dict, grow: dict, boundary_loss: bool) -> None:
        self.kernel = {key: value for key, value in crf.items() if key not in ("unary", "min_prob")}
        self.unary, self.min_prob = crf["unary"], crf["min_prob"]
        self.thresholds = {"fg_thresh": grow["fg_thresh"], "bg_thresh": grow["bg_thresh"]}
        self.enabled, self.start, self.on = grow["enabled"], grow["start"], grow["on"]
        self.boundary_loss = boundary_loss

    @torch.no_grad()
    def __call__(self, images: Tensor, probs: Tensor, seeds: Tensor, present: Tensor, *, step: int) -> Supervision:
        """images uint8 (B, 3, S, S), probs float32 (B, C+1, h, w), seeds uint8 (B, h, w), present bool (B, C+1)."""
        growing = self.enabled and step >= self.start
        crf_probs = None
        if self.boundary_loss or (growing and self.on != "softmax"):
            crf_probs = self.refined(images, probs)
        if not growing:
            return Supervision(seeds, crf_probs)
        deciding = self.deciding(probs, crf_probs, present)
        return Supervision(grow(seeds, deciding, present, **self.thresholds), crf_probs)

    def refined(self, images: Tensor, probs: Tensor) -> Tensor:
        """The CRF's probabilities, float32 (B, C+1, h, w)."""
        # every eighth pixel is the aligned-corners resize of an 8k+1 square to its grid
        small = images[:, :, ::8, ::8]
        energies = unary_energies(probs, unary=self.unary, min_prob=self.min_prob)
        return clamped(dense_crf(small, energies, **self.kernel), min_prob=self.min_prob)

    def deciding(self, probs: Tensor, crf_probs: Tensor | None, present: Tensor) -> Tensor:
        """The probabilities that growth goes by, float32 (B, C+1, h, w); "softmax" needs no crf_probs."""
        if self.on == "both":
            return confidence(probs, crf_probs, present)
        return crf_probs if self.on == "crf" else probs


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


def class_shares(labels: Tensor, *, classes: int) -> Tensor:
    """Shares of all pixels that are labelled background and each class, float (classes + 1,); labels uint8 (B, h, w).

    Waits for nothing on the device, unlike `bincount`.
    """
    numbers = torch.arange(classes + 1, dtype=labels.dtype, device=labels.device)
    return (labels.flatten() == numbers[:, None]).float().mean(dim=1)
