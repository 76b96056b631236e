"""Bounds of memory, and of the size of files."""

import resource
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.refusals import refusals


@contextmanager
def memory_within(megabytes: int) -> Iterator[None]:
    """What is done meanwhile takes at most so much more than the process has already; held where Linux counts it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        yield
        return
    before = _status("VmRSS")
    yield
    taken = (_status("VmHWM") - before) / 1000
    assert taken < megabytes, f"{taken:.0f} MB"


@contextmanager
def files_within(size: int) -> Iterator[None]:
    """No file may become larger than this meanwhile, bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def peak_of_refusal(work: Callable[[], object]) -> int:
    """Bytes that Python and NumPy had at most while `work` was refused."""
    tracemalloc.start()
    try:
        refusals(work)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _status(name: str) -> int:
    """kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
