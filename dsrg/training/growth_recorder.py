"""How the supervision of a few fixed images grows during training (paper figure 1)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsrg.data.index import Index
from dsrg.data.palette import label_png
from dsrg.files import atomic_file
from dsrg.inference.preprocess import warp_to_square
from dsrg.method.losses import smoothed_softmax
from dsrg.params import Dsrg
from dsrg.training.dsrg import Supervisor


def watched_steps(steps: int, times: int) -> list[int]:
    """`times` moments spread evenly over a training of `steps`, the end included."""
    return sorted({max(1, round(steps * moment / times)) for moment in range(1, times + 1)})


class GrowthRecorder:
    """Called after a step of training, writes the images' grown seeds to folder/ID/STEP.png at the chosen steps.

    Args:
        index: the images to watch, K of them; seen whole, not augmented, as squares of `size` pixels.
        seeds: uint8 (K, h, w).
        settings: params `dsrg`; the network sees `batch` images at once, as many as the training has memory for, at
            `watch_times` moments of its `steps`, see `watched_steps`.
        folder: where unfinished trainings keep their files, so that a resumed one has the early moments too.
    """

    def __init__(
        self, index: Index, seeds: NDArray[np.uint8], settings: Dsrg, *, size: int, supervisor: Supervisor, folder: Path
    ) -> None:
        self.ids, self.folder = list(index.ids), folder
        self.pictures = [index.image(row) for row in range(len(index))]
        self.seeds, self.present = seeds, torch.from_numpy(index.present)
        self.settings, self.size, self.supervisor = settings, size, supervisor
        self.moments = watched_steps(settings.steps, settings.watch_times)

    @torch.no_grad()
    def __call__(self, network: nn.Module, step: int) -> None:
        if step not in self.moments or not self.ids:
            return
        network.eval()  # draws no random numbers, so watching changes nothing
        for rows, images, probs in self._seen(network):
            seeds, present = torch.from_numpy(self.seeds[rows]).to(probs.device), self.present[rows].to(probs.device)
            grown = self.supervisor(images, probs, seeds, present, step=step - 1).labels.cpu().numpy()
            for image_id, labels in zip(self.ids[rows], grown, strict=True):
                with atomic_file(self.folder / image_id / f"{step:06d}.png") as temporary:
                    temporary.write_bytes(label_png(labels))
        network.train()

    @torch.no_grad()
    def predicted(self, network: nn.Module) -> NDArray[np.uint8]:
        """What a network in evaluation mode makes of the images: the likeliest of all classes, uint8 (K, h, w)."""
        if not self.ids:
            return self.seeds
        return np.concatenate([probs.argmax(dim=1).to(torch.uint8).cpu().numpy() for *_, probs in self._seen(network)])

    def _seen(self, network: nn.Module) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, their images as squares, uint8 (b, 3, S, S), and the network's probabilities, on its device."""
        for start in range(0, len(self.ids), self.settings.batch):
            rows = slice(start, start + self.settings.batch)
            images = warp_to_square(self.pictures[rows], self.size).to(next(network.parameters()).device)
            yield rows, images, smoothed_softmax(network(images).float(), min_prob=self.settings.min_prob)
