"""Kills at random moments over one pipeline: are the final outs bit-identical, is anything left over?

    python -m benchmarks.chaos --name demo [--kills 20] [--seed 0] [--set-param shapes.train=60]...

`dvc repro` runs in two copies of the project in the working folder, with its params.yaml (a data root that the pipeline
does not make itself is linked). In one it is left alone; in the other every attempt is struck at a random moment in one
of the WAYS and begun again. When the pipeline comes to its end before there were enough strikes, outs and cache are
removed and it starts anew. Prints a table, writes JSON, and exits with 1 if anything differs, was left or lives on.
"""

import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import psutil
import torch
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from benchmarks import RESULTS
from dsrg.files import sha256, write_json
from dsrg.params import load_params

PATIENCE = 120  # seconds that what was struck has to end in, on a busy machine
SHARE = 0.6  # of the time that the pipeline takes: the longest that an attempt is given
DRAWN = "data/shapes"
CODE = ("dsrg", "stages")
FILES = ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")
DVC_CONFIG = """[core]
    no_scm = true
    analytics = false
    check_update = false
"""  # nothing of DVC's works on in the background in a copy that is to be removed
CHECKPOINTS = re.compile(r"^(\w+): (\d+) checkpoints took ([\d.]+) of ([\d.]+) s$", re.MULTILINE)


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


def start(command: list[str], folder: Path, **environment: str) -> subprocess.Popen:
    """A command in a process group of its own; what it says is added to folder/chaos.log."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "DSRG_SCRATCH"))}
    settings |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | environment
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or the child ignores it where this is in the background
    with open(folder / "chaos.log", "a") as log:
        return subprocess.Popen(command, cwd=folder, env=settings, stdout=log, stderr=log, start_new_session=True)


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


def checksums(folder: Path) -> dict[str, str]:
    """sha256 of every out of every stage of folder/dvc.yaml, file by file."""
    declared = YAML(typ="safe", pure=True).load((folder / "dvc.yaml").read_text())
    files = declared["vars"][0]["file"]
    found = {}
    for stage in declared["stages"].values():
        for entry in [*stage.get("outs", []), *stage.get("metrics", [])]:
            name = entry if isinstance(entry, str) else next(iter(entry))
            path = folder / re.sub(r"\$\{file\.(\w+)\}", lambda match: files[match[1]], name)
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file():
                    found[str(file.relative_to(folder))] = sha256(file)
    return found


def leftovers(folder: Path) -> list[str]:
    """Temporary files, locks and unfinished work in a project, DVC's own aside."""
    rests = [path for path in folder.rglob(".*") if path.suffix in (".tmp", ".old")]
    rests += (path for path in (folder / ".scratch").rglob("*") if path.name != "seconds.json")
    return sorted(str(path.relative_to(folder)) for path in rests if ".dvc" not in path.relative_to(folder).parts)


def copy_of_project(folder: Path, changes: dict[str, str]) -> Path:
    """The working folder's project, with changed params and nothing done yet, as a DVC repository without git."""
    for name in CODE:
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(name, folder / name)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    for key, value in changes.items():
        *sections, last = key.split(".")
        inner = params
        for section in sections:
            inner = inner[section]
        inner[last] = yaml.load(value)
    yaml.dump(params, folder / "params.yaml")
    link_data(folder)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(DVC_CONFIG)
    return folder


def link_data(folder: Path) -> None:
    """A data root that no stage makes is that of the working folder."""
    root = load_params(folder / "params.yaml").data.root
    if Path(root).exists() and root != DRAWN and not Path(root).is_absolute():
        (folder / root).parent.mkdir(parents=True, exist_ok=True)
        (folder / root).symlink_to(Path(root).resolve())


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@click.command()
@click.option("--name", required=True, help="Of the JSON file in benchmarks/results.")
@click.option("--kills", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of moments and ways.")
@click.option("--set-param", "-S", "changes", multiple=True, help="section.key=value, in both copies.")
@click.option("--checkpoint-seconds", default=2.0, show_default=True, help="Between checkpoints, in both copies.")
def main(name: str, kills: int, seed: int, changes: tuple[str, ...], checkpoint_seconds: float) -> None:
    rng = random.Random(seed)
    command, settings = ["dvc", "repro"], {"DSRG_CHECKPOINT_SECONDS": str(checkpoint_seconds)}
    with tempfile.TemporaryDirectory() as place:
        changed = dict(change.split("=", 1) for change in changes)
        whole, killed = (copy_of_project(Path(place) / kind, changed) for kind in ("whole", "killed"))
        began = time.monotonic()
        if start(command, whole, **settings).wait():
            sys.exit((whole / "chaos.log").read_text())
        undisturbed = time.monotonic() - began
        expected, strikes, different, left, rounds = checksums(whole), [], set(), leftovers(whole), 0
        began = time.monotonic()
        while True:
            enough = len(strikes) == kills
            seconds = 0.0 if enough else rng.uniform(0, SHARE * undisturbed)
            process = start(command, killed, **settings)
            way = rng.choice(WAYS)
            wait = process.wait if enough else lambda seconds=seconds: time.sleep(seconds)
            if (strike := struck(process, way, wait=wait)) is not None:
                strikes.append({"after_seconds": round(seconds, 1), **strike})
                click.echo(f"{len(strikes)}/{kills}: {strikes[-1]}")
                continue
            rounds += 1
            found = checksums(killed)
            different |= {path for path in expected | found if expected.get(path) != found.get(path)}
            left += leftovers(killed)
            if enough:
                break
            for made in ("data", "results", "dvc.lock", ".dvc/cache"):
                remove(killed / made)
            link_data(killed)
        disturbed = time.monotonic() - began
        saved = CHECKPOINTS.findall((whole / "chaos.log").read_text())
        resumed = (killed / "chaos.log").read_text().count("going on from step")
    alive = [process for strike in strikes for process in strike["alive"]]
    cost = {
        stage: {"checkpoints": int(count), "seconds": float(spent), "of_seconds": float(total)}
        for stage, count, spent, total in saved
    }
    table = Table("training", "checkpoints", "seconds", "share")
    for stage, row in cost.items():
        share = row["seconds"] / row["of_seconds"]
        table.add_row(stage, str(row["checkpoints"]), f"{row['seconds']:.2f}", f"{share:.1%}")
    Console().print(table)
    print(f"{len(strikes)} strikes, {resumed} trainings resumed, {rounds} times {len(expected)} files compared")
    print(f"different: {sorted(different) or 'none'}; left over: {left or 'nothing'}; still alive: {alive or 'nobody'}")
    result = {
        "machine": {"processor": platform.processor() or platform.machine(), "torch": torch.__version__},
        "changes": list(changes),
        "checkpoint_seconds": checkpoint_seconds,
        "seed": seed,
        "files": len(expected),
        "rounds": rounds,
        "different": sorted(different),
        "left_over": left,
        "still_alive": alive,
        "trainings_resumed": resumed,
        "undisturbed_seconds": undisturbed,
        "disturbed_seconds": disturbed,
        "checkpoints": cost,
        "strikes": strikes,
    }
    write_json(RESULTS / f"chaos-{name}.json", result)
    sys.exit(1 if different or left or alive else 0)


if __name__ == "__main__":
    main()
