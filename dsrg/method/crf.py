"""Fully connected CRF (Kraehenbuehl and Koltun 2011): probabilities that follow the image's edges."""

from functools import cache

import torch
from torch import Tensor

from dsrg.method.crf_lattice import lattice_mean_field
from dsrg.method.crf_pydensecrf import Kernel, mean_field


def dense_crf(images: Tensor, unary: Tensor, *, engine: str = "auto", **kernel: float) -> Tensor:
    """Mean-field marginals of a CRF that joins every pair of pixels by a Gaussian and a bilateral kernel.

    A class that wins nowhere still takes its share of every sum, so without it others may win. Leaving it out is the
    same only where its probabilities are 0 in float32 all the way: an energy some 150 above the least at each pixel,
    which `min_prob` rules out. So no engine leaves classes out by itself; `pseudo_labels.tags_only` is a choice.

    Args:
        images: uint8 (B, 3, H, W) RGB.
        unary: energies, float32 (B, C, H, W): minus log probability, up to a constant per pixel.
        kernel: all of `Kernel` (params `crf.train`, `crf.test`).
        engine: "pydensecrf" (C++ on CPU, image by image), "lattice" (the same numbers but for
            rounding, in torch on the device of `unary`, all images at once), or "auto", see `engine_on`.

    Returns float32 (B, C, H, W) on the device of `unary`, summing to 1 over C. Raises ValueError for another `engine`
    and for images and energies that differ in size or number, TypeError for another kernel.
    """
    if engine not in ("auto", "lattice", "pydensecrf"):
        raise ValueError(f"engine: expected auto, lattice or pydensecrf, not {engine!r}")
    kernel = Kernel(**kernel)
    if images.shape[0] == unary.shape[0] == 0:
        return unary.detach().float()
    if (engine_on(unary.device) if engine == "auto" else engine) == "lattice":
        return lattice_mean_field(images, unary, kernel)
    if len(images) != len(unary):
        raise ValueError(f"{len(images)} images, but energies of {len(unary)}")
    pairs = zip(images.cpu().numpy(), unary.detach().float().cpu().numpy(), strict=True)
    return torch.stack([torch.from_numpy(mean_field(*pair, kernel)) for pair in pairs]).to(unary.device)


def engine_on(device: torch.device) -> str:
    """The engine "auto" takes for energies on a device: pydensecrf on a CPU, where it is installed."""
    return "pydensecrf" if device.type != "cuda" and _has_pydensecrf() else "lattice"


@cache
def _has_pydensecrf() -> bool:
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError:
        return False
    return True


def unary_energies(probs: Tensor, *, unary: str, min_prob: float) -> Tensor:
    """Energies from probabilities (B, C, h, w): "logp" = minus log p, "prob" = minus p (released code).

    Minus p lies within 1 of itself over all classes while the pairwise weights add up to 13, so it hardly resists
    smoothing until the network is sure: an implicit warm-up. Probabilities below `min_prob` count as `min_prob`.
    Any other `unary` is a ValueError.
    """
    if unary not in ("logp", "prob"):
        raise ValueError(f"unary: expected logp or prob, not {unary!r}")
    probs = probs.clamp(min=min_prob)
    return -probs.log() if unary == "logp" else -probs


def clamped(probs: Tensor, *, min_prob: float) -> Tensor:
    """Probabilities (B, C, h, w) at least `min_prob`, renormalized over dim 1."""
    probs = probs.clamp(min=min_prob)
    return probs / probs.sum(dim=1, keepdim=True)
