"""How fast this device can be at most: rates of multiplying and copying that the benchmarks' floors stand on.

A floor is the time of the least work: operations over the rate of a large matrix product or convolution in the same
precision, whichever is faster, or the bytes that must be read and written over the rate of copying.
"""

import time
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import now

SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices, large enough that the caches do their best
COPIED = {"cpu": 2**27, "cuda": 2**30}  # bytes, more than any cache holds


def rates(device: torch.device, *, quick: bool = False) -> dict[str, float]:
    """flop_per_s in fp32 and bf16 and `copy_rate` of a device, for figures to keep."""
    side = 64 if quick else SIDE[device.type]

    def flops(dtype: torch.dtype) -> float:
        """Of matrix products or, where their library is the slower one, of convolutions."""
        factors = torch.ones(2, side, side, dtype=dtype, device=device)
        product = 2 * side**3 / fastest(lambda: factors[0] @ factors[1])
        layer = nn.Conv2d(side // 8, side // 8, 3, bias=False).to(device, dtype, memory_format=torch.channels_last)
        images = torch.ones(4, side // 8, 66, 66, dtype=dtype, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            convolution = operations(lambda: layer(images)) / fastest(lambda: layer(images))
        return max(product, convolution)

    both = {"fp32_flop_per_s": flops(torch.float32), "bf16_flop_per_s": flops(torch.bfloat16)}
    return {**both, "bytes_per_s": copy_rate(device, quick=quick)}


def copy_rate(device: torch.device, *, quick: bool = False) -> float:
    """Bytes a second of a copy, read and written."""
    size = 2**16 if quick else COPIED[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * size / fastest(lambda: target.copy_(source))


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of five runs after one that does not count; of the processor, where one thread works."""
    seconds = []
    clock = now if torch.cuda.is_available() or torch.get_num_threads() > 1 else time.process_time
    for _ in range(6):
        began = clock()
        work()
        seconds.append(clock() - began)
    return max(min(seconds[1:]), time.get_clock_info("perf_counter").resolution)


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in `work`, backward passes included."""
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward}) as counter:
        work()
    return counter.get_total_flops()


def _backward(grad: list, inputs: list, weight: list, *options: object, out_shape: list, **more: object) -> int:
    """Of a convolution's gradients: each of both takes what the convolution took.

    torch's own formula forgets that the channels of a depthwise layer do not mix, and counts many times too much. No
    network here has transposed convolutions, which this does not know.
    """
    wanted = sum(shape is not None for shape in out_shape[:2])
    return wanted * 2 * prod(grad) * prod(weight[1:])


def size_of(*tensors: Tensor) -> int:
    """Bytes of some tensors."""
    return sum(tensor.nbytes for tensor in tensors)
