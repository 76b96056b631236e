"""When a batch is too large for the GPU's memory: which one would do."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.errors import RunError

Learn = Callable[[Batch, int], dict[str, Tensor]]  # (batch, step): a step's gradients, and its values


def with_memory_advice(learn: Learn, network: nn.Module) -> Learn:
    """`learn`, but when memory runs out a RunError says how many images would have fitted."""

    def advised(batch: Batch, step: int) -> dict[str, Tensor]:
        try:
            return learn(batch, step)
        except torch.OutOfMemoryError as error:
            reason = str(error).split(". ")[0]
        # outside of the handler nothing refers to the failed step's tensors any more
        fits = largest_batch(lambda images: learn(batch.first(images), step), len(batch.ids), network)
        advice = f"{fits} would fit: set `batch` to {fits} or less" if fits else "not even one would fit"
        raise RunError(
            f"out of memory at step {step + 1} with a batch of {len(batch.ids)} images; {advice}; "
            f"a smaller data.size and precision: bf16 need less, too ({reason})"
        )

    return advised


def largest_batch(attempt: Callable[[int], object], failed: int, network: nn.Module) -> int:
    """The largest number of images, below `failed`, for which `attempt` does not run out of memory; 0 if there is none.

    Found by trying, with room set aside for what an optimiser keeps of each parameter (at most two values).
    """
    room = [torch.empty_like(parameter) for parameter in network.parameters() for _ in range(2)]
    fits = 0
    while failed - fits > 1:
        images = (fits + failed) // 2
        try:
            attempt(images)
            fits = images
        except torch.OutOfMemoryError:
            failed = images
    del room
    return fits
