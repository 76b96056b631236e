"""Dropout that several processes can share."""

import torch.nn.functional as F
from torch import Tensor, nn


class BatchDropout(nn.Dropout):
    """Dropout that leaves out of every image of a batch the same, whichever part of the batch one process sees.

    A part draws what the whole batch would, and so leaves the same random state behind.
    """

    first = 0  # images of the batch before this part
    batch: int | None = None  # images of the whole batch; None: this is all of it

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training or self.batch is None:
            return super().forward(inputs)
        strides = inputs[0].numel(), *inputs.stride()[1:]  # random numbers come in the order of memory
        whole = inputs.new_empty_strided((self.batch, *inputs.shape[1:]), strides).fill_(1)
        return inputs * F.dropout(whole, self.p)[self.first : self.first + len(inputs)]


def share_dropout(network: nn.Module, *, first: int, batch: int) -> None:
    """Tell a network's dropout that it sees a part of a batch of `batch` images, from `first` on."""
    for module in network.modules():
        if isinstance(module, BatchDropout):
            module.first, module.batch = first, batch
