"""Work spread over processes or threads, results in order, the same for any number of workers."""

import ctypes
import math
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import cache
from itertools import repeat
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsrg.errors import RunError
from dsrg.runtime.environment import worker_count

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 512 << 20  # bytes of freed memory that a process keeps at most


@cache
def pool() -> Executor:
    """One pool a process, started once. Its workers are fresh interpreters: no CUDA context, no inherited threads.

    They are forked from one that has imported torch, so they start at once and share its memory.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    return ProcessPoolExecutor(worker_count(), mp_context=context, initializer=_serve)


def _serve() -> None:
    """A worker's first act: leave Ctrl-C to the main process, and never outlive it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_memory(32 << 20)

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def keep_memory(largest: int) -> None:
    """Let this process keep one image's memory for the next, in pieces of at most `largest` bytes.

    To return it and ask anew takes a CRF a tenth of its time, and scores of large images half of theirs.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, largest)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def ordered_map(function: Callable, items: Iterable) -> Iterator:
    """`map` over the pool: results come in the order of items, at most a few items a worker are in flight.

    `function` must be importable by name. With one worker everything runs in this process. Raises RunError when a
    worker dies or cannot start, at once.
    """
    if worker_count() < 2:
        yield from map(function, items)
        return
    try:
        yield from _ahead(pool(), function, items, most=3 * worker_count())
    except BrokenProcessPool:
        raise RunError(
            "a worker process was killed, most likely for want of memory: run this again with fewer of them "
            f"(DSRG_WORKERS, now {worker_count()}); or it could not start, which needs a main program that is a file "
            'and does its work under `if __name__ == "__main__":`'
        ) from None


def threaded_map(function: Callable, items: Iterable, *, threads: int = 2) -> Iterator:
    """`ordered_map` in threads of this process, for what waits or works outside Python's lock: writing PNGs."""
    with ThreadPoolExecutor(threads) as executor:
        yield from _ahead(executor, function, items, most=3 * threads)


def ahead(items: Iterable, *, most: int) -> Iterator:
    """The items in order, made by a thread while those before are used: at most `most` wait, one is being made.

    What goes wrong in making one is raised in its place.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as executor:
        for item in _ahead(executor, lambda _: next(iterator, end), repeat(None), most=most):
            if item is end:
                return
            yield item


def _ahead(executor: Executor, function: Callable, items: Iterable, *, most: int) -> Iterator:
    """Results in the order of items, `most` of which are in flight while a result is looked at."""
    waiting: deque[Future] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        if waiting:  # Python 3.11.2 waits forever for a pool that ends while all it has left is canceled
            with suppress(BrokenProcessPool, RuntimeError):
                executor.submit(int).result()


class Shared(NamedTuple):
    """Where other processes find an array of float32: as little as this is sent to them."""

    path: str
    shape: tuple[int, ...]

    def array(self) -> NDArray[np.float32]:
        """The array itself; what is written to it is seen by all."""
        return np.memmap(self.path, np.float32, "r+", shape=self.shape)


@contextmanager
def shared_array(shape: tuple[int, ...]) -> Iterator[Shared]:
    """An array of zeros that workers can open meanwhile; who has opened it may keep it.

    It has no name (Linux's memfd), so nothing is left over, however a process ends.
    """
    descriptor = os.memfd_create("dsrg")
    try:
        os.truncate(descriptor, np.dtype(np.float32).itemsize * math.prod(shape))
        yield Shared(f"/proc/{os.getpid()}/fd/{descriptor}", shape)
    finally:
        os.close(descriptor)
