"""The project in the working folder: its params, and the files that its stages hand to one another.

dvc.yaml is the only place that names files; `file:` at its top is read here.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from dsrg.data.classes import read_classes
from dsrg.data.index import Index, read_index
from dsrg.errors import InputError
from dsrg.files import find_in_project, read_yaml
from dsrg.params import Params, load_params


@dataclass(frozen=True)
class Paths:
    """Every file that one stage hands to another, relative to the working folder."""

    shapes: Path
    index: Path
    ground_truth: Path
    masks: Path
    skipped: Path
    classes: Path
    cam: Path
    points: Path  # of a person, not of a stage
    seeds: Path
    dsrg: Path
    growth: Path
    pseudo_labels: Path
    retrain: Path
    results: Path
    report: Path


@dataclass(frozen=True)
class Project:
    """Validated params and the paths of the files."""

    params: Params
    paths: Paths

    @property
    def data_root(self) -> Path:
        return find_in_project(self.params.data.root)

    @cached_property
    def classes(self) -> list[str]:
        """Those that `prepare` found, without background. Raises InputError where it has not run."""
        return read_classes(self.paths.classes)

    def index(self, *, max_side: int | None = None) -> Index:
        """The images that `prepare` found, of `max_side` at most. Raises InputError where it has not run."""
        return read_index(self.paths.index, self.classes, self.data_root, max_side=max_side)


def load_project() -> Project:
    """The project in the working folder. Raises InputError when params.yaml or dvc.yaml are not right."""
    files = read_dvc_yaml()["vars"][0]["file"]
    names = [field.name for field in fields(Paths)]
    if sorted(files) != sorted(names):
        raise InputError(f"dvc.yaml: file: expected the keys {', '.join(names)}; restore it: git checkout -- dvc.yaml")
    return Project(load_params(), Paths(**{name: Path(path) for name, path in files.items()}))


def read_dvc_yaml() -> dict:
    """Raises InputError where there is none, or it is no pipeline."""
    if not Path("dvc.yaml").exists():
        raise InputError(f"dvc.yaml: not found in {Path.cwd()}; run from the project's root")
    found = read_yaml("dvc.yaml")
    if not isinstance(found, dict) or not found.keys() >= {"vars", "stages"}:
        raise InputError("dvc.yaml: expected `vars:` and `stages:`; restore it: git checkout -- dvc.yaml")
    return found
