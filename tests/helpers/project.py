"""The whole project on a set so small that every stage takes a second."""

import importlib
import json
import shutil
from functools import cache, reduce
from io import StringIO
from operator import getitem
from pathlib import Path

from ruamel.yaml import YAML

from dsrg.params import load_params
from dsrg.stage import load_stage
from helpers import ROOT

TINY = {
    "shapes": {"train": 12, "val": 4, "size_min": 64, "size_max": 72, "objects_max": 2},
    "data": {"size": 65},
    "network": {"head_channels": 16},
    "cam": {"steps": 12, "batch": 4, "precision": "fp32"},
    "seeds": {"overlays": 2},
    "grow": {"start": 3},
    "dsrg": {"steps": 12, "batch": 4, "precision": "fp32", "watch_images": 2},
    "pseudo_labels": {"overlays": 2},
    "retrain": {"steps": 12, "batch": 4, "precision": "fp32"},
    "evaluate": {"overlays": 2},
}


def tiny_project(folder: Path, **changes: dict) -> Path:
    """A copy of the project in `folder` with small params; changes: section={key: value}."""
    return copy_project(folder, _tiny_params(json.dumps(changes)))


def copy_project(folder: Path, params: str) -> Path:
    """The project's own files in `folder`, with these params and nothing done yet."""
    for name in ("dsrg", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir(parents=True)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore", "data/points.csv"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(params, encoding="utf-8")
    return folder


@cache
def _tiny_params(changes: str) -> str:
    return changed_params(ROOT / "recipes/shapes.yaml", TINY, json.loads(changes))


def changed_params(path: Path, *layers: dict) -> str:
    """The text of a params file with some values changed, one layer {section: {key: value}} after the other."""
    yaml, text = YAML(), StringIO()
    params = yaml.load(path)
    for layer in layers:
        for section, values in layer.items():
            if isinstance(values, dict):
                params[section].update(values)
            else:
                params[section] = values
    yaml.dump(params, text)
    return text.getvalue()


def recipe() -> dict:
    """The params of recipes/shapes.yaml as plain values, free to be changed; each training's optimizer is whole."""
    return load_params(ROOT / "recipes/shapes.yaml").model_dump()


def run_stage(name: str) -> None:
    """Run a stage of the project in the working folder."""
    getattr(importlib.import_module(f"stages.{name}"), name)(load_stage(name))


def run_experiment(command: list[str], stages: list[str]) -> bool:
    """As `dvc exp run` of a command with --set-param: set params.yaml, then run stages. Other commands do nothing."""
    if command[2] != "run":
        return False
    yaml, path = YAML(), Path("params.yaml")
    params = yaml.load(path)
    for key, value in (word.split("=", 1) for word in command if "=" in word):
        *sections, last = key.split(".")
        reduce(getitem, sections, params)[last] = YAML(typ="safe").load(value)
    yaml.dump(params, path)
    for name in stages:
        run_stage(name)
    return True


def leftovers(folder: Path) -> list[str]:
    """Temporary files, locks and unfinished work in a project, DVC's own aside."""
    rests = [path for path in folder.rglob(".*") if path.suffix in (".tmp", ".old")]
    rests += (path for path in (folder / ".scratch").rglob("*") if path.name != "seconds.json")
    return sorted(str(path.relative_to(folder)) for path in rests if ".dvc" not in path.relative_to(folder).parts)
