"""The processes that share a training: each takes a part of every batch, and all take the same step.

What a step learns from is the whole batch, however many processes it is spread over: losses are means over all its
images, and dropout leaves out of an image what it would in one process (`networks/heads.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed

from dsrg.errors import RunError, one_line
from dsrg.runtime.environment import env_float

# older torch has it under its private name only
set_timeout = getattr(distributed, "set_timeout", distributed.distributed_c10d._set_pg_timeout)


@contextmanager
def collective_timeout(images: int) -> Iterator[None]:
    """Steps that all processes take together: who is silent for DSRG_TIMEOUT_SECONDS (50), or gone, ends them for all.

    images: this process's part of a batch. Raises RunError when another process is lost, or memory is too small.
    """
    if distributed.is_initialized():
        set_timeout(timedelta(seconds=env_float("DSRG_TIMEOUT_SECONDS")))
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        raise RunError(
            f"out of memory with {images} images at once; lower `batch` in this stage's section of params.yaml, or "
            f"data.size, set its `precision` to bf16, or train on more devices ({reason})"
        ) from None
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            why = one_line(error)
            raise RunError(f"another process ended or fell silent, its own message says why ({why})") from None
        raise


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum over the processes, elementwise and without gradient; in one process the values themselves."""
    if distributed.is_initialized():
        values = values.detach().clone()
        distributed.all_reduce(values)
    return values


def all_reduce_mean(values: dict[str, Tensor], *, share: float) -> dict[str, Tensor]:
    """Means over this process's part of the images, `share` of all -> means over all images, of the same shapes."""
    if not distributed.is_initialized():
        return values
    flat = all_reduce_sum(torch.cat([value.float().flatten() for value in values.values()]) * share)
    means = flat.split([value.numel() for value in values.values()])
    return {name: mean.view_as(values[name]) for name, mean in zip(values, means, strict=True)}
