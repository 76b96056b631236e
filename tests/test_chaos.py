"""Kills at random moments over one pipeline: are the final outs bit-identical, is anything left over? `make chaos`

`dvc repro` runs in two copies of the project, of a small demo. In one it is left alone; in the other every attempt is
struck at a random moment in one of the WAYS and begun again. When the pipeline comes to its end before there were
enough strikes, outs and cache are removed and it starts anew.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from helpers import ROOT
from helpers.dvc_yaml import checksums
from helpers.launchers import environment
from helpers.project import changed_params, copy_project, leftovers

PATIENCE = 120  # seconds that what was struck has to end in, on a busy machine
SHARE = 0.6  # of the time that the pipeline takes: the longest that an attempt is given
DVC_CONFIG = """[core]
    no_scm = true
    analytics = false
    check_update = false
"""  # nothing of DVC's works on in the background in a copy that is to be removed
KILLS = 20
SMALL = {"shapes": {"train": 100, "val": 30}, "cam": {"steps": 50}, "dsrg": {"steps": 60}, "retrain": {"steps": 60}}


def strike_everything(dvc: psutil.Process, stage: psutil.Process | None) -> None:
    """Power failure: SIGKILL for all."""
    os.killpg(dvc.pid, signal.SIGKILL)


def strike_dvc(dvc: psutil.Process, stage: psutil.Process | None) -> None:
    """SIGKILL for dvc alone; its stage has to notice."""
    dvc.kill()


def strike_stage(dvc: psutil.Process, stage: psutil.Process | None) -> None:
    """SIGKILL for the stage alone, as when memory runs out."""
    (stage or dvc).kill()


def strike_stop(dvc: psutil.Process, stage: psutil.Process | None) -> None:
    """SIGTERM for the stage, or for dvc between stages."""
    (stage or dvc).terminate()


def strike_ctrl_c(dvc: psutil.Process, stage: psutil.Process | None) -> None:
    """Ctrl-C in the terminal: SIGINT for all."""
    os.killpg(dvc.pid, signal.SIGINT)


WAYS = (strike_everything, strike_dvc, strike_stage, strike_stop, strike_ctrl_c)


def start(command: list[str], folder: Path, **settings: str) -> subprocess.Popen:
    """A command in a process group of its own; what it says is added to folder/chaos.log."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or the child ignores it where this is in the background
    with open(folder / "chaos.log", "a") as log:
        pipes = {"stdout": log, "stderr": log}
        return subprocess.Popen(command, cwd=folder, env=environment(**settings), start_new_session=True, **pipes)


def struck(process: subprocess.Popen, way: Callable, *, wait: Callable[[], None]) -> dict | None:
    """Strike a running command when `wait` returns -> who was struck and who is still alive long after; None when it
    has ended by itself. Raises CalledProcessError if it has failed by itself.
    """
    wait()
    if process.poll() is not None:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
        return None
    members = group(process.pid)
    stage = next((member for member in members if stage_name(member)), None)
    name = stage_name(stage) if stage else None
    try:
        way(psutil.Process(process.pid), stage)
    except (ProcessLookupError, psutil.NoSuchProcess):
        pass  # it ended in this very moment
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and (process.poll() is None or group(process.pid)):
        time.sleep(0.1)
    alive = [" ".join(member.cmdline()) for member in group(process.pid)]
    process.wait()
    return {"way": way.__name__.removeprefix("strike_"), "stage": name, "alive": alive}


def group(number: int) -> list[psutil.Process]:
    """The living processes of a process group."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == number and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def stage_name(process: psutil.Process) -> str | None:
    """train_dsrg of `python -m stages.train_dsrg`."""
    try:
        command = process.cmdline()
    except psutil.NoSuchProcess:
        return None
    return next((part.removeprefix("stages.") for part in command[1:3] if part.startswith("stages.")), None)


def copy_of_project(folder: Path) -> Path:
    """The demo, smaller, with nothing done yet, as a DVC repository without git."""
    copy_project(folder, changed_params(ROOT / "recipes/shapes.yaml", SMALL))
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(DVC_CONFIG)
    return folder


@pytest.mark.chaos
def test_a_pipeline_that_is_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    rng = random.Random()
    command, settings = ["dvc", "repro"], {"DSRG_CHECKPOINT_SECONDS": "2", "DSRG_SCRATCH": ""}
    whole, killed = (copy_of_project(tmp_path / kind) for kind in ("whole", "killed"))
    began = time.monotonic()
    assert start(command, whole, **settings).wait() == 0, (whole / "chaos.log").read_text()
    undisturbed, expected, strikes = time.monotonic() - began, checksums(whole), []
    assert leftovers(whole) == []
    while True:
        enough = len(strikes) == KILLS
        seconds = 0.0 if enough else rng.uniform(0, SHARE * undisturbed)
        process = start(command, killed, **settings)
        wait = process.wait if enough else partial(time.sleep, seconds)
        if (strike := struck(process, rng.choice(WAYS), wait=wait)) is not None:
            strikes.append(strike)
            print(f"{len(strikes)}/{KILLS}: after {seconds:.1f} s, {strike}")
            assert strike["alive"] == []
            continue
        assert checksums(killed) == expected and leftovers(killed) == []
        if enough:
            break
        made = [path for path in (killed / "data").iterdir() if path.name != "points.csv"]
        for path in [*made, *(killed / name for name in ("results", "dvc.lock", ".dvc/cache"))]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert "going on from step" in (killed / "chaos.log").read_text()
