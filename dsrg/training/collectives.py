"""The processes that share a training: each takes a part of every batch, and all take the same step.

What a step learns from is the whole batch, however many processes it is spread over: losses are means over all its
images, and dropout leaves out of an image what it would leave out of it in one process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from dsrg.errors import RunError
from dsrg.runtime.environment import number

# older torch has it under its private name only
set_timeout = getattr(distributed, "set_timeout", distributed.distributed_c10d._set_pg_timeout)


@contextmanager
def company() -> Iterator[None]:
    """Steps that all processes take together: who is silent for DSRG_TIMEOUT_SECONDS (50), or gone, ends them for all.

    Raises RunError when another process is lost, or this one's memory is too small.
    """
    if not distributed.is_initialized():
        yield
        return
    set_timeout(timedelta(seconds=number("DSRG_TIMEOUT_SECONDS", 50)))
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        raise RunError(f"out of memory; more processes or a smaller batch would need less of it ({reason})") from None
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"another process ended or fell silent, its own message says why ({reason})") from None
        raise


def total(values: Tensor) -> Tensor:
    """Sum over the processes, elementwise and without gradient; in one process the values themselves."""
    if distributed.is_initialized():
        values = values.detach().clone()
        distributed.all_reduce(values)
    return values


def over_all(values: dict[str, Tensor], *, share: float) -> dict[str, Tensor]:
    """Means over this process's part of the images, `share` of all -> means over all images, of the same shapes."""
    if not distributed.is_initialized():
        return values
    flat = total(torch.cat([value.float().flatten() for value in values.values()]) * share)
    means = flat.split([value.numel() for value in values.values()])
    return {name: mean.view_as(values[name]) for name, mean in zip(values, means, strict=True)}


class _PartDropout(nn.Dropout):
    """Dropout of a part of a batch: draws what the whole batch would, and so leaves the same random state behind."""

    first: int  # images of the batch before this part
    batch: int  # images of the whole batch

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return inputs
        strides = inputs[0].numel(), *inputs.stride()[1:]  # random numbers come in the order of memory
        whole = inputs.new_empty_strided((self.batch, *inputs.shape[1:]), strides).fill_(1)
        return inputs * F.dropout(whole, self.p)[self.first : self.first + len(inputs)]


def share_dropout(network: nn.Module, *, first: int, batch: int) -> None:
    """Tell the dropout layers of a network that they see a part of a batch of `batch` images, from `first` on."""
    for module in network.modules():
        if type(module) is nn.Dropout:
            module.__class__, module.first, module.batch = _PartDropout, first, batch
