"""How fast this device can be at most: rates of multiplying and copying that the benchmarks' floors stand on.

A floor is the time of the least work: operations over the rate of a large matrix product in the same precision, or the
bytes that must be read and written over the rate of copying.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import now

SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices, large enough that the caches do their best
COPIED = {"cpu": 2**27, "cuda": 2**30}  # bytes, more than any cache holds


def rates(device: torch.device, *, quick: bool = False) -> dict[str, float]:
    """flop_per_s of matrix products in fp32 and bf16 and `copy_rate` of a device, for figures to keep."""
    side = 64 if quick else SIDE[device.type]

    def product(dtype: torch.dtype) -> float:
        factors = torch.ones(2, side, side, dtype=dtype, device=device)
        return 2 * side**3 / fastest(lambda: factors[0] @ factors[1])

    products = {"fp32_flop_per_s": product(torch.float32), "bf16_flop_per_s": product(torch.bfloat16)}
    return {**products, "bytes_per_s": copy_rate(device, quick=quick)}


def copy_rate(device: torch.device, *, quick: bool = False) -> float:
    """Bytes a second of a copy, read and written."""
    size = 2**16 if quick else COPIED[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * size / fastest(lambda: target.copy_(source))


def fastest(work: Callable[[], object], *, times: int = 5) -> float:
    """Seconds of the fastest of some runs after one that does not count."""
    seconds = []
    for _ in range(times + 1):
        began = now()
        work()
        seconds.append(now() - began)
    return max(min(seconds[1:]), time.get_clock_info("perf_counter").resolution)


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in `work`, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def size_of(*tensors: Tensor) -> int:
    """Bytes of some tensors."""
    return sum(tensor.nbytes for tensor in tensors)
