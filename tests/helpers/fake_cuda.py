"""A CUDA device that is not there: tensors with shapes, dtypes and a device, but no values, and what waits for it.

    with FakeCuda() as cuda:
        ...  # operations on tensors made with device="cuda"; mixing devices raises
    assert cuda.waits == Counter({"growing._seeded_regions: copy to the host": 1})

Stands on PyTorch's FakeTensorMode. What the host asks of the device is counted under the function of this project
that asks, and answered: a number by 1, a comparison of tensors by True, a copy to the host by zeros.

PyTorch's engine for gradients wants streams of a real device, so gradients are taken of fake tensors of the host, in
`FakeCuda("cpu")`: it asks for the same values, whatever the device, and no backward pass here is written by hand.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[2]
aten = torch.ops.aten


class _FakeMode(FakeTensorMode):
    avoid_device_init = True  # or it looks for a device at every operation


class FakeCuda(TorchDispatchMode):
    """Within it `device="cuda"` works; `waits` counts what waits for the device, by place.

    watched: "cpu" counts what asks for values of tensors of the host instead. Tensors of one may be used in another.
    """

    fake = _FakeMode(allow_non_fake_inputs=True)

    def __init__(self, watched: str = "cuda") -> None:
        super().__init__()
        self.watched = watched
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> "FakeCuda":
        self.fake.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.fake.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.overloadpacket
        if name is aten.to and torch.is_inference_mode_enabled():  # which does not divide it into its parts
            with self:
                done = function.decompose(*args, **kwargs)
            if done is not NotImplemented:
                return done
        first = args[0] if args and isinstance(args[0], Tensor) else None
        on_device = first is not None and first.device.type == self.watched
        if on_device and name is aten._local_scalar_dense:
            self._wait("a number")
            return True if first.dtype is torch.bool else 1.0 if first.is_floating_point() else 1
        if on_device and name is aten.equal:
            self._wait("a comparison")
            return True
        if on_device and name is aten.nonzero:
            self._wait("places of what is not zero")
            return torch.empty(first.numel(), first.ndim, dtype=torch.int64, device=first.device)
        if name is aten._to_copy and first.device.type != torch.device(kwargs.get("device") or first.device).type:
            if on_device:
                self._wait("copy to the host")
                with unset_fake_temporarily():
                    return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
            if not kwargs.get("non_blocking"):
                self._wait("copy to the device")
        if name is aten.copy_ and first.device.type != args[1].device.type and not (args[2:] or [False])[0]:
            self._wait("copy between host and device")
        return function(*args, **kwargs)

    def _wait(self, what: str) -> None:
        frame = sys._getframe(2)
        while frame and not Path(frame.f_code.co_filename).is_relative_to(ROOT / "dsrg"):
            frame = frame.f_back
        place = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}" if frame else "the test"
        self.waits[f"{place}: {what}"] += 1


@contextmanager
def autocast(*, enabled: bool) -> Iterator[None]:
    """bfloat16 as `dsrg.training.fit` has it; torch's own looks for a real device first."""
    missing = patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    with missing, patch("torch.cuda.is_bf16_supported", lambda: True):
        mode = torch.autocast("cuda", torch.bfloat16, enabled=enabled)
    with mode:
        yield


def on_cuda(network: nn.Module) -> nn.Module:
    """The network with parameters and buffers on the fake device; call it within FakeCuda."""
    for module in network.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(_moved(value), requires_grad=value.requires_grad)
        module._buffers.update({name: _moved(value) for name, value in module._buffers.items() if value is not None})
    return network


def _moved(value: Tensor) -> Tensor:
    layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
    return torch.empty(value.shape, dtype=value.dtype, device="cuda", memory_format=layout)
