"""The fully connected CRF of many images: on a CPU over worker processes, with the same bits for any number of them."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsrg.method.crf import dense_crf, engine_on
from dsrg.method.crf_pydensecrf import Kernel, mean_field
from dsrg.runtime import workers

Job = tuple[workers.Shared, int, NDArray[np.uint8], Kernel]  # a batch's energies, the first row to work on, its images


def dense_crf_over_workers(images: Tensor, unary: Tensor, **kernel: float) -> Tensor:
    """`dense_crf` with engine "auto", arguments and result as there; pydensecrf's images are spread over processes."""
    if engine_on(unary.device) == "lattice" or len(images) != len(unary) or len(images) < 2:
        return dense_crf(images, unary, **kernel)
    kernel = Kernel(**kernel)
    pixels, energies = images.cpu().numpy(), unary.detach().float().cpu().numpy()
    with workers.shared_array(energies.shape) as place:
        values = place.array()

        def jobs() -> Iterator[Job]:
            """Two parts a process: few messages to and fro, yet none idle for long where images differ in time."""
            part = -(-len(pixels) // (2 * workers.worker_count()))
            for first in range(0, len(pixels), part):
                rows = slice(first, first + part)
                values[rows] = energies[rows]  # while others work on the parts before
                yield place, first, pixels[rows], kernel

        for _ in workers.ordered_map(_mean_fields, jobs()):
            pass
        return torch.from_numpy(values).to(unary.device)


def image_mean_field(job: tuple[NDArray[np.uint8], NDArray[np.float32], Kernel]) -> NDArray[np.float32]:
    """`dense_crf` of a job for `ordered_map`: its image, energies and kernel."""
    image, energies, kernel = job
    return dense_crf(torch.tensor(image)[None], torch.tensor(energies)[None], **vars(kernel))[0].numpy()


def _mean_fields(job: Job) -> None:
    """`mean_field` of images uint8 (B, 3, H, W): a shared array's energies, from a row on, become probabilities."""
    place, first, images, kernel = job
    values = place.array()
    for row, image in enumerate(images, first):
        values[row] = mean_field(image, values[row], kernel)
