"""Environment variables: what changes how a run goes, and never its result, so is no parameter."""

import os
from math import inf
from pathlib import Path

from dsrg.errors import InputError

DEFAULTS = {
    "DSRG_CACHE_GIB": 2.0,  # memory for decoded images
    "DSRG_CHECKPOINT_SECONDS": 60.0,  # between two checkpoints of a training
    "DSRG_CHECKPOINT_STEPS": inf,
    "DSRG_PROGRESS_SECONDS": 10.0,  # between two lines of progress
    "DSRG_SHARD_TIMEOUT_SECONDS": 600.0,  # without a new file of another process that shares the work
    "DSRG_TIMEOUT_SECONDS": 50.0,  # without a word of another process that trains along
}


def env_float(name: str) -> float:
    """A number, 0 or more, from the environment, else its default. Raises InputError for anything else."""
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else DEFAULTS[name]
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise InputError(f"{name}: expected a number, 0 or more, not {text!r}")
    return value


def worker_count() -> int:
    """Processes to use: DSRG_WORKERS, else the cores that this process may run on. 0 and 1: none beside this one.

    Raises InputError for anything but a whole number.
    """
    text = os.environ.get("DSRG_WORKERS", "")
    if text and not (text.isascii() and text.isdecimal()):
        raise InputError(f"DSRG_WORKERS: expected a number of processes, not {text!r}")
    return max(1, int(text) if text else len(os.sched_getaffinity(0)))


def scratch_root() -> Path:
    """Where unfinished work and locks lie: DSRG_SCRATCH, or .scratch in the project."""
    return Path(os.environ.get("DSRG_SCRATCH") or Path(os.environ.get("DVC_ROOT", ".")) / ".scratch")
