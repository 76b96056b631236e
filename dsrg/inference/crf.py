"""The fully connected CRF of many images: on a CPU over processes or threads, the same bits for any number of them."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsrg.method.crf import dense_crf, engine_on
from dsrg.method.crf_pydensecrf import Kernel, mean_field
from dsrg.runtime import workers

Job = tuple[workers.Shared, int, NDArray[np.uint8], Kernel]  # a batch's energies, the first row to work on, its images


def dense_crf_over_workers(images: Tensor, unary: Tensor, *, engine: str = "auto", **kernel: float) -> Tensor:
    """`dense_crf`, arguments and result as there; images are spread over pydensecrf's processes, the lattice's threads.

    The lattice's operations are too short to be divided themselves.
    """
    engine, count = engine_on(unary.device) if engine == "auto" else engine, workers.worker_count()
    if unary.device.type != "cpu" or len(images) != len(unary) or len(images) < 2 or count == 1:
        return dense_crf(images, unary, engine=engine, **kernel)
    if engine == "lattice":
        threads, part = torch.get_num_threads(), -(-len(images) // count)

        def refined(pair: tuple[Tensor, Tensor]) -> Tensor:
            torch.set_num_threads(1)  # of those that this thread would start
            return dense_crf(*pair, engine=engine, **kernel)

        pairs = zip(images.split(part), unary.detach().split(part), strict=True)
        try:
            return torch.cat(list(workers.threaded_map(refined, pairs, threads=count)))
        finally:
            torch.set_num_threads(threads)  # of threads that start from now on
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
