"""What every stage of dvc.yaml shares: its params, its files, its scratch folder and how errors reach the person."""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, reduce
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from operator import getitem
from pathlib import Path
from typing import IO

from dsrg.errors import InputError, RunError, collecting, few
from dsrg.files import read_text, require_room, require_writable, sha256, write_text
from dsrg.params import Params, restricted
from dsrg.project import Paths, Project, load_project, read_dvc_yaml
from dsrg.runtime.durations import note_seconds, noted_seconds
from dsrg.runtime.dvc_lock import read_lock
from dsrg.runtime.environment import scratch_root
from dsrg.runtime.launcher import LaunchConfig, topology
from dsrg.runtime.lock import one_writer, try_lock
from dsrg.runtime.problems import report_problems
from dsrg.runtime.signals import Stopped, die_of_ctrl_c, leave_keyboard_to_starter, starter, stop_with, stoppable

ORIGIN = "origin.json"  # in a scratch folder: what its name is the digest of
LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python", "pydensecrf", "timm")  # that results may depend on


@dataclass(frozen=True)
class Stage:
    """One run of a stage of a project."""

    name: str
    project: Project

    @cached_property
    def params(self) -> Params:
        """Those that dvc.yaml declares for the stage; reading any other is an AttributeError."""
        return restricted(self.project.params, self._declared.get("params", []))

    @property
    def paths(self) -> Paths:
        return self.project.paths

    @property
    def data_root(self) -> Path:
        return self.project.data_root

    @property
    def classes(self) -> list[str]:
        return self.project.classes

    @property
    def results(self) -> Path:
        return self.paths.results / self.name

    @property
    def scratch(self) -> Path:
        """Folder for unfinished work, outside of dvc's sight, named after everything the result depends on.

        Under the main project even when dvc runs in a temporary copy, so a run that was killed there goes on too; where
        two such runs do the same work at the same time, the second one has a folder of its own.
        """
        return self._workplace[0] if self.topology.is_rank_zero else Path(os.devnull)

    @cached_property
    def topology(self) -> LaunchConfig:
        """The processes that share the stage's work, as the environment says."""
        return topology()

    def discard_scratch(self) -> None:
        """The outs are in place: unfinished work is not needed any more."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """The only run of this stage in this folder, with what a killed one left half-written cleared away.

        Raises RunError with the other's pid when there is one.
        """
        here = hashlib.sha256(str(Path.cwd().resolve()).encode()).hexdigest()[:8]
        with one_writer(scratch_root() / f"{self.name}-in-{here}.lock", f"the stage `{self.name}`"):
            for out in self.outs:
                for rest in out.parent.glob(f".{out.name}.*"):
                    if rest.suffix in (".tmp", ".old"):
                        shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
            yield

    def preflight(self) -> None:
        """Before the work begins: can the outs be written, and is there room for as much as they took last time?

        Raises InputError with all problems at once.
        """
        lock, problems = read_lock(), []
        for folder in dict.fromkeys([scratch_root(), *(out.parent for out in self.outs)]):
            with collecting(problems):
                require_writable(folder)
        if problems:
            raise InputError(problems)
        before = lock[self.name].outs if self.name in lock else []
        require_room(self.paths.results.parent, sum(out.size for out in before))

    @property
    def outs(self) -> list[Path]:
        """What dvc.yaml says that the stage makes."""
        entries = [*self._declared.get("outs", []), *self._declared.get("metrics", [])]
        return [self._path(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries]

    @cached_property
    def _workplace(self) -> tuple[Path, IO[str]]:
        """The scratch folder and the lock on it, held as long as this stage is."""
        origin = self._origin()
        name = f"{self.name}-{hashlib.sha256(json.dumps(origin).encode()).hexdigest()[:16]}"
        folders = (scratch_root() / (f"{name}.{number}" if number else name) for number in count())
        folder, lock = next((folder, lock) for folder in folders if (lock := try_lock(folder / "lock")))
        if not (folder / ORIGIN).exists():
            for line in _unlike(folder, origin):
                print(f"{self.name}: {line}", flush=True)
            write_text(folder / ORIGIN, json.dumps(origin))
        return folder, lock

    def _origin(self) -> dict[str, object]:
        """What dvc.yaml says the stage depends on, the params' values and the sha256 of its deps, and the libraries."""
        values, origin = self.project.params.model_dump(), {}
        for key in self._declared.get("params", []):
            origin |= _leaves(key, _dig(values, key))
        for path in map(self._path, self._declared["deps"]):
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    origin[str(file)] = sha256(file)
        return origin | library_versions()

    @cached_property
    def _declared(self) -> dict:
        return read_dvc_yaml()["stages"][self.name]

    def _path(self, text: str) -> Path:
        """A path of dvc.yaml, its ${a.b} replaced by values."""
        values = {"file": vars(self.paths), "data": {"root": self.project.params.data.root}}
        return Path(re.sub(r"\$\{([\w.]+)\}", lambda match: str(_dig(values, match[1])), text))


def run_stage(work: Callable[[Stage], None], *, together: bool = False) -> None:
    """The whole of a stage's `if __name__ == "__main__"`: messages and exit codes instead of tracebacks.

    2 = the input is wrong, 1 = the work cannot go on, 128 + the signal's number = stopped. A stage that dvc started
    stops when that dvc ends: nobody would take its outs.

    together: whether several processes can share the work; else, where a launcher started several, the first does it.
    """
    name = Path(sys.modules[work.__module__].__file__).stem
    stage, started = None, time.monotonic()
    try:
        shared = topology()
        if shared.launcher == "parent" and not shared.is_rank_zero:
            leave_keyboard_to_starter()
        with stoppable():
            if "DVC_STAGE" in os.environ or shared.launcher == "parent":
                stop_with(starter())
            stage = load_stage(name)
            if shared.is_rank_zero:
                stage.preflight()
                with stage.exclusive():
                    work(stage)
                    note_seconds(name, time.monotonic() - started)
            elif together:
                work(stage)
    except InputError as error:
        found = f"{len(error.problems)} problems\n" if len(error.problems) > 1 else ""
        code, message = 2, found + "\n".join(report_problems(error.problems))
    except RunError as error:
        code, message = 1, "\n".join([str(error), *getattr(error, "__notes__", [])])
    except Stopped as stop:
        began = stage is not None and "_workplace" in vars(stage)
        kept = f"goes on with what is in {stage.scratch}" if began else "starts it again"
        code, message = 128 + stop.number, f"{stop}; the same command {kept}"
    else:
        die_of_ctrl_c()
        return
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def library_versions() -> dict[str, str]:
    """Of the LIBRARIES that are installed."""
    found = {}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def read_seconds() -> dict[str, float]:
    """How long each stage took when it last ran in this folder, in the order of dvc.yaml; of a training that was
    interrupted, since it went on. No outs of the stages: no two runs have the same. Raises InputError if none ran.
    """
    noted = noted_seconds()
    if not noted:
        raise InputError("no times are noted; no stage has run in this folder yet, run `dvc repro`")
    return {name: noted[name] for name in read_dvc_yaml()["stages"] if name in noted}


def load_stage(name: str) -> Stage:
    """A stage of the project in the working folder. Raises InputError when params.yaml or dvc.yaml are not right."""
    return Stage(name, load_project())


def _unlike(folder: Path, origin: dict[str, object]) -> Iterator[str]:
    """A line for each unfinished work of the same stage that `folder` does not go on with, and why not."""
    for other in sorted(folder.parent.glob(f"{folder.name.rsplit('-', 1)[0]}-*/{ORIGIN}")):
        theirs = json.loads(read_text(other))
        changed = sorted(key for key in theirs | origin if theirs.get(key) != origin.get(key))
        if changed:
            yield f"unfinished work in {other.parent} is left alone, because of other {few(changed)}"


def _leaves(key: str, value: object) -> dict[str, object]:
    """Dotted keys and their values: ("grow", {"on": "crf"}) -> {"grow.on": "crf"}."""
    if not isinstance(value, dict):
        return {key: value}
    return {name: leaf for child, inner in value.items() for name, leaf in _leaves(f"{key}.{child}", inner).items()}


def _dig(values: dict, dotted: str) -> object:
    return reduce(getitem, dotted.split("."), values)
