"""How long each stage took when it last ran, folder by folder: a note beside the locks, on which nothing depends."""

import json
from pathlib import Path

from dsrg.files import write_json
from dsrg.runtime.environment import scratch_root
from dsrg.runtime.lock import one_writer

NAME = "seconds.json"  # {folder: {stage: seconds}}


def note_seconds(stage: str, seconds: float) -> None:
    """Note that a stage of the working folder took so many seconds; folders that are no more are forgotten."""
    path, here = scratch_root() / NAME, str(Path.cwd())
    with one_writer(path.with_suffix(".lock"), "noting a time"):
        noted = {folder: times for folder, times in _noted(path).items() if Path(folder).is_dir()}
        write_json(path, noted | {here: noted.get(here, {}) | {stage: seconds}})


def noted_seconds() -> dict[str, float]:
    """Seconds by stage, of the working folder; empty where none has run in it."""
    return _noted(scratch_root() / NAME).get(str(Path.cwd()), {})


def _noted(path: Path) -> dict[str, dict[str, float]]:
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a damaged note must not stop a stage
        return {}
    folders = noted.items() if isinstance(noted, dict) else ()
    return {folder: times for folder, times in folders if isinstance(times, dict)}
