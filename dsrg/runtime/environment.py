"""Environment variables: what changes how a run goes, and never its result, so is no parameter."""

import os
from pathlib import Path

from dsrg.errors import InputError


def number(name: str, default: float) -> float:
    """A number, 0 or more, from the environment. Raises InputError for anything else."""
    text = os.environ.get(name, "")
    try:
        value = float(text or default)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise InputError(f"{name}: expected a number, 0 or more, not {text!r}")
    return value


def scratch_root() -> Path:
    """Where unfinished work and locks lie: DSRG_SCRATCH, or .scratch in the project."""
    return Path(os.environ.get("DSRG_SCRATCH") or Path(os.environ.get("DVC_ROOT", ".")) / ".scratch")
