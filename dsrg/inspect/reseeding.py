"""Seeds and growth of single images at any thresholds, by the functions that the stages use."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsrg.artifacts.seeds_h5 import Seeds
from dsrg.inference.predict import load_segmenter
from dsrg.inference.preprocess import warp_to_square
from dsrg.inference.seeding import crf_labels, ruled_seeds
from dsrg.method.losses import smoothed_softmax
from dsrg.method.seeds import make_seeds, seed_claims, with_crf_labels
from dsrg.params import Params, SeedParams
from dsrg.training.dsrg import Supervisor


class SeedMaps(NamedTuple):
    """What seeds are made from, B images: as the stage `make_seeds` had it in hand.

    cams float32 (B, C, h, w), untagged classes 0; saliency float32 (B, h, w); present bool (B, C+1); labels uint8
    (B, h, w), what the CRF of params `seeds.crf` makes of them.
    """

    cams: Tensor
    saliency: Tensor
    present: Tensor
    labels: Tensor


def stored_maps(seeds: Seeds, image_id: str) -> tuple[Tensor, Tensor, Tensor] | None:
    """One image's activation maps, saliency and tags, as in SeedMaps (B = 1); None where seeds came without maps."""
    saliency, by_class = seeds.maps(image_id)
    if saliency is None:
        return None
    present = torch.from_numpy(seeds.tags_in_order([image_id]))
    cams = torch.zeros(1, present.shape[1] - 1, *saliency.shape)
    for number, cam in by_class.items():
        cams[0, number - 1] = torch.from_numpy(cam)
    return cams, torch.from_numpy(saliency)[None], present


def why_fixed(seeds: Seeds, settings: SeedParams) -> str | None:
    """Why seeds do not depend on the thresholds, None where they do."""
    if settings.crf.use == "replace":
        return "the CRF's label map replaces the seeds (seeds.crf.use)"
    if not settings.thresholded:
        return "seeds come from seeds.harmonic (seeds.rule)"
    imported = stored_maps(seeds, seeds.ids[0]) is None
    return "the seeds are imported, without the maps they come from" if imported else None


def with_crf(
    images: list[NDArray[np.uint8]], cams: Tensor, saliency: Tensor, present: Tensor, settings: SeedParams
) -> SeedMaps:
    """The maps of some images, uint8 (H, W, 3) each, and what the CRF makes of them."""
    labels = torch.stack(list(crf_labels(images, cams, saliency, present, crf=settings.crf)))
    return SeedMaps(cams, saliency, present, labels)


def own_classes(maps: SeedMaps, place: int) -> SeedMaps:
    """One of several images' maps (B = 1), without the classes that it does not show; the others counted from 1."""
    tags = maps.present[place].nonzero()[:, 0]
    if len(tags) == 1:
        tags = torch.tensor([0, 1])  # its map is 0, so it claims nothing
    labels = torch.searchsorted(tags, maps.labels[place].long())
    present = torch.ones(1, len(tags), dtype=torch.bool)
    return SeedMaps(maps.cams[place, tags[1:] - 1][None], maps.saliency[place][None], present, labels[None])


def seeds_at(maps: SeedMaps, fg_thresh: Tensor, bg_thresh: Tensor, *, conflict: str) -> Tensor:
    """Seeds of one image (B = 1) at P pairs of thresholds, float (P,) both, before the CRF: uint8 (P, h, w)."""
    spread = (part.expand(len(fg_thresh), *part.shape[1:]) for part in maps[:3])
    thresholds = {"fg_thresh": fg_thresh.view(-1, 1, 1, 1), "bg_thresh": bg_thresh.view(-1, 1, 1)}
    return make_seeds(*spread, **thresholds, conflict=conflict)


def live_seeds(maps: SeedMaps, settings: SeedParams, *, fg_thresh: float, bg_thresh: float) -> Tensor:
    """Seeds uint8 (B, h, w) as `make_seeds` writes them for these thresholds and else params `seeds`."""
    moved = settings.model_copy(update={"fg_thresh": fg_thresh, "bg_thresh": bg_thresh})
    return with_crf_labels(ruled_seeds(*maps[:3], moved), maps.labels, use=settings.crf.use)


def disagreement(maps: SeedMaps, *, fg_thresh: float) -> float:
    """Share of all cells that two or more tagged classes claim at this threshold."""
    claims = seed_claims(*maps[:3], fg_thresh=fg_thresh, bg_thresh=0)  # no saliency is below 0
    return float((claims.sum(dim=1) > 1).float().mean())


class Grower:
    """What the trained network of the stage `train_dsrg` would grow seeds into."""

    def __init__(self, path: Path, params: Params) -> None:
        """Raises InputError when there is no network at `path`."""
        self.segmenter, model = load_segmenter(path, stage_name="train_dsrg")
        self.segmenter = self.segmenter.to(memory_format=torch.channels_last)  # as while it was trained
        self.size, self.params = model.size, params
        self.supervisor = Supervisor(crf=params.crf.train, grow=params.grow, boundary_loss=False)

    @torch.no_grad()
    def growth_probs(self, images: list[NDArray[np.uint8]], present: Tensor) -> Tensor:
        """The probabilities float32 (B, C+1, h, w) that growth goes by (params `grow.on`), on the CPU.

        images: uint8 (H, W, 3) each; present: their tags, bool (B, C+1).
        """
        batch, probs = self._network_probs(images)
        crf_probs = None if self.params.grow.on == "softmax" else self.supervisor.crf_probs(batch, probs)
        return self.supervisor.growth_probs(probs, crf_probs, present.to(probs.device)).cpu()

    @torch.no_grad()
    def network_probs(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Those of the network alone, float32 (C+1, h, w), of an image uint8 (H, W, 3)."""
        return self._network_probs([image])[1][0].cpu().numpy()

    def _network_probs(self, images: list[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
        device = next(self.segmenter.parameters()).device
        batch, half = warp_to_square(images, self.size).to(device), self.params.dsrg.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = self.segmenter(batch)
        return batch, smoothed_softmax(logits.float(), min_prob=self.params.dsrg.min_prob)
