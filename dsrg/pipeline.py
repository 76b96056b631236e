"""What every stage of dvc.yaml shares: its params, its files, its scratch folder and how errors reach the person.

dvc.yaml is the only place that names files; `file:` at its top is read here.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ruamel.yaml import YAML

from dsrg.errors import InputError
from dsrg.files import find_in_project, sha256
from dsrg.params import Params, load_params


@dataclass(frozen=True)
class Stage:
    """One run of a stage: validated params and the paths of dvc.yaml's `file:`, relative to the working folder."""

    name: str
    params: Params
    file: dict[str, Path]

    @property
    def data_root(self) -> Path:
        return find_in_project(self.params.data.root)

    @property
    def results(self) -> Path:
        return self.file["results"] / self.name

    @cached_property
    def scratch(self) -> Path:
        """Folder for unfinished work, outside of dvc's sight, named after everything the result depends on.

        Under the main project even when dvc runs in a temporary copy, so a run that was killed there goes on too.
        """
        root = Path(os.environ.get("DSRG_SCRATCH") or Path(os.environ.get("DVC_ROOT", ".")) / ".scratch")
        folder = root / f"{self.name}-{self._fingerprint()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self) -> None:
        """The outs are in place: what was kept for going on is not needed any more."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _fingerprint(self) -> str:
        """sha256 over what dvc.yaml says the stage depends on: the params' values and the contents of its deps."""
        declared = read_dvc_yaml()["stages"][self.name]
        values = self.params.model_dump()
        digest = hashlib.sha256(json.dumps({key: _dig(values, key) for key in declared.get("params", [])}).encode())
        for dep in declared["deps"]:
            path = Path(_fill(dep, {"file": self.file, "data": {"root": self.params.data.root}}))
            for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
                digest.update(f"{file}\0{sha256(file)}\0".encode())
        return digest.hexdigest()


def run_stage(work: Callable[[Stage], None]) -> None:
    """The whole of a stage's `if __name__ == "__main__"`: exit code 2 with a message when the input is wrong."""
    name = Path(sys.modules[work.__module__].__file__).stem
    try:
        work(load_stage(name))
    except InputError as error:
        count = f"{len(error.problems)} problems\n" if len(error.problems) > 1 else ""
        sys.exit(_refusal(f"{name}: {count}{error}"))


def load_stage(name: str) -> Stage:
    """A stage of the project in the working folder. Raises InputError when params.yaml or dvc.yaml are not right."""
    files = read_dvc_yaml()["vars"][0]["file"]
    return Stage(name, load_params(), {key: Path(path) for key, path in files.items()})


def read_dvc_yaml() -> dict:
    try:
        return YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"dvc.yaml: not found in {Path.cwd()}; run from the project's root") from None


def _refusal(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def _dig(values: dict, dotted: str) -> object:
    for key in dotted.split("."):
        values = values[key]
    return values


def _fill(text: str, values: dict) -> str:
    """Replace dvc's ${a.b} by values."""
    return re.sub(r"\$\{([\w.]+)\}", lambda match: str(_dig(values, match[1])), text)
