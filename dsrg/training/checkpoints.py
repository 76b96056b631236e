"""Checkpoints of an unfinished training, in the stage's scratch folder, which is gone when the training ends."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dsrg.errors import RunError, one_line
from dsrg.runtime.checksummed import DamagedError, read_checksummed, write_checksummed
from dsrg.runtime.environment import env_float
from dsrg.runtime.signals import Stopped

KEPT = 2  # the newest, and the one before in case that the newest gets damaged
SHARE = 1 / 40  # of the time, at most, that saving may take: a large network on a slow disk is saved less often


class Checkpoints:
    """The newest states of one training, each a file step-STEP.SHA256.pt in `folder`, written atomically.

    One is due DSRG_CHECKPOINT_SECONDS (60) after the last, later if saving takes longer than 1/40 of that, or after
    DSRG_CHECKPOINT_STEPS steps if that is set. `fingerprint` stands for params, inputs and code of the training: a file
    with another one is not taken.
    """

    def __init__(self, folder: Path, *, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.interval = env_float("DSRG_CHECKPOINT_SECONDS")
        self.every = env_float("DSRG_CHECKPOINT_STEPS")
        self.kept: list[Path] = []
        self.began = time.monotonic()
        self.last_step, self.last_time = 0, self.began
        self.saves, self.seconds = 0, 0.0

    def __str__(self) -> str:
        return f"{self.saves} checkpoints took {self.seconds:.2f} of {time.monotonic() - self.began:.1f} s"

    def due(self, step: int) -> bool:
        """Is it time for the checkpoint of `step`?"""
        pause = max(self.interval, self.seconds / max(self.saves, 1) / SHARE)
        return step - self.last_step >= self.every or time.monotonic() - self.last_time > pause

    def save(self, state: dict) -> None:
        """Write {step, ...}, of tensors and plain values, and remove the oldest."""
        began = time.monotonic()
        buffer = io.BytesIO()
        torch.save({**state, "fingerprint": self.fingerprint}, buffer)
        path = write_checksummed(self.folder, f"step-{state['step']:08d}", buffer.getvalue(), suffix=".pt")
        self.kept = [*(other for other in self.kept if other != path), path]
        while len(self.kept) > KEPT:
            self.kept.pop(0).unlink(missing_ok=True)
        self.last_step, self.last_time = state["step"], time.monotonic()
        self.saves, self.seconds = self.saves + 1, self.seconds + self.last_time - began

    def load(self) -> dict | None:
        """The newest state that is whole; None where there is none. Warns of those that are not."""
        files = sorted(self.folder.glob("step-*.pt"))
        while files:
            try:
                state = self._read(files[-1])
            except DamagedError as error:
                print(f"warning: {error}; going on from the checkpoint before it, if there is one", flush=True)
                files.pop()
                continue
            self.kept, self.last_step = files, state["step"]
            return state
        return None

    def _read(self, path: Path) -> dict:
        content = read_checksummed(path)
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            theirs = state["fingerprint"]
        except Exception as error:  # whole, and yet none of ours: it can be anything
            raise DamagedError(f"{path}: no checkpoint ({one_line(error)})") from None
        if theirs != self.fingerprint:
            raise DamagedError(f"{path}: belongs to {theirs}, not to {self.fingerprint}: other params, inputs or code")
        return state

    @contextmanager
    def kept_when_stopped(self, state: Callable[[], dict]) -> Iterator[None]:
        """Saves `state()` when the training inside is told to stop; notes on other errors what there is to go on from.

        `state` may raise RunError when there is nothing good to save.
        """
        try:
            yield
        except Stopped:
            self.save(state())
            raise
        except RunError as error:
            last = f"of step {self.last_step}, {self.kept[-1]}" if self.kept else "none"
            error.add_note(f"last good checkpoint: {last}")
            raise


def random_state() -> dict[str, torch.Tensor]:
    """Of torch's generators, the CPU's and, where there is one, the GPU's."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """Go on with random numbers where `random_state` was called."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
