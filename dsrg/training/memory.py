"""The memory of a training step, known before there is one: the step is taken with tensors that have no values."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from dsrg.networks.weights import untrained
from dsrg.params import Params
from dsrg.training.optim import build_optimizer


def step_bytes(params: Params, training: str, *, classes: int, images: int) -> int:
    """The most that a step's tensors take at a time, in bytes: weights, optimizer, activations, gradients.

    A step takes no less. Left out are the CRF and the losses, on the grid and so many times smaller; what convolutions
    use while they run; CUDA itself, about half a GiB; and what the allocator holds and cannot give away.

    images: of a batch, in one process.
    """
    settings, size = getattr(params, training), params.data.size
    with FakeTensorMode():
        network = untrained(params, training, classes=classes).train()
        optim = build_optimizer(network, settings.optimizer)
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        optim.step()  # from the second step on there is its momentum
        optim.zero_grad()
        batch = torch.empty(images, 3, size, size, dtype=torch.uint8)
        tracker = MemTracker()
        tracker.track_external(network, optim, batch)
        with tracker:
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                logits = network(batch)
            logits.float().sum().backward()
            optim.step()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def free_bytes() -> list[int]:
    """What each GPU of this machine has free."""
    return [torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())]
