"""Runs the stages of the project in the working folder that are not done yet, in one process that can be told to die
by force, in any locale, and with files listed the wrong way round.

    python run_pipeline.py [STAGE ITEM]     killed when it has done ITEM items (steps, images) of STAGE
"""

import importlib
import locale
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from ruamel.yaml import YAML

from dsrg.runtime.progress import Tracker
from dsrg.stage import load_stage


def kill_after(name: str, items: int) -> None:
    advance = Tracker.advance

    def advance_or_die(self: Tracker, note: str = "") -> None:
        advance(self, note)
        if self.name == name and self.done == items:
            os.kill(os.getpid(), signal.SIGKILL)

    Tracker.advance = advance_or_die


def list_backwards() -> None:
    listdir, scandir = os.listdir, os.scandir

    class Backwards(list):
        def __enter__(self) -> "Backwards":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        close = __exit__

    os.listdir = lambda *path: sorted(listdir(*path), reverse=True)
    os.scandir = lambda *path: Backwards(sorted(scandir(*path), key=lambda entry: entry.name, reverse=True))


def main() -> None:
    with suppress(locale.Error):  # not installed here
        locale.setlocale(locale.LC_ALL, "")
    if len(sys.argv) > 1:
        kill_after(sys.argv[1], int(sys.argv[2]))
    if os.environ.get("BACKWARDS"):
        list_backwards()
    done = Path(".done")
    done.mkdir(exist_ok=True)
    for name in YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]:
        if not (done / name).exists():
            stage = load_stage(name)
            with stage.exclusive():
                getattr(importlib.import_module(f"stages.{name}"), name)(stage)
            (done / name).touch()


if __name__ == "__main__":  # worker processes import this file, too
    main()
