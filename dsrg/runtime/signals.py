"""Being told to stop: SIGTERM, Ctrl-C, a terminal that closes, or the death of the process that this one works for.

A stop is an exception in the main thread, so `finally` and `with` undo what is half done as after any other error.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from types import FrameType

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SHELLS = {"sh", "dash", "bash", "zsh", "ksh", "fish"}


class Stopped(BaseException):
    """Somebody stopped this process by the signal `number`. Notes (`add_note`) say what was kept."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


class _Stop:
    """The stop asked for, if any, and whether it has to wait."""

    number: int | None = None
    waits: bool = False


def _ask(number: int, frame: FrameType | None) -> None:
    """The handler of the first signal. After it only a second Ctrl-C counts: it gives up what is being saved."""
    _Stop.number = number
    for other in SIGNALS:
        signal.signal(other, signal.default_int_handler if other == signal.SIGINT else signal.SIG_IGN)
    if not _Stop.waits:
        raise Stopped(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, a signal raises Stopped in the main thread. Signals that were ignored (nohup) stay so."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, _ask)
    try:
        yield
        if _Stop.number is not None:  # lost in a place that swallows exceptions, a finalizer for one
            raise Stopped(_Stop.number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _Stop.number = None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A stop has to wait until the end of the block, which is then either done or not begun."""
    _Stop.waits = True
    try:
        yield
    finally:
        _Stop.waits = False
    if _Stop.number is not None:  # asked for meanwhile, or lost before
        raise Stopped(_Stop.number)


def stop_with(pid: int) -> None:
    """Stop this process, as SIGTERM does, within a second after the process `pid` ends, however that ends.

    It looks, twice a second, instead of asking the kernel for a signal (PR_SET_PDEATHSIG): that comes from the parent
    alone, which may be a shell, and already when the parent's thread ends; nor do all kernels know it.
    """

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=watch, daemon=True).start()


def leave_keyboard_to_starter() -> None:
    """Let what a terminal says to all processes, Ctrl-C or that it closes, be answered by the one that started this."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def die_of_ctrl_c() -> None:
    """Let Ctrl-C end this process by the kernel, for Python loses it while it shuts down, and `dvc` would go on."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def starter() -> int:
    """Who runs this process: its nearest ancestor that is not merely a shell's `-c`."""
    process = psutil.Process(os.getppid())
    while (command := process.cmdline()) and os.path.basename(command[0]) in SHELLS and "-c" in command:
        if (parent := process.parent()) is None:
            break
        process = parent
    return process.pid
