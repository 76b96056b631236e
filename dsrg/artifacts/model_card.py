"""A model card: what a trained network knows, what it was made from and how well it does, as Markdown.

What it was made from is not in the model file; dvc.lock has it, by checksums: so nothing is said that does not belong
to exactly this file.
"""

import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML

from dsrg.artifacts.model_file import Model
from dsrg.errors import InputError
from dsrg.files import read_text
from dsrg.runtime.dvc_lock import LockedFile, md5, read_lock

ABOUT = (
    "A semantic segmentation network trained from image tags alone, by Deep Seeded Region Growing (Huang et al., CVPR "
    "2018)."
)


@dataclass
class Provenance:
    """The stage that wrote a file, params of it and of all that it stands on, and what was measured of it."""

    stage: str
    params: dict = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)  # by split
    metrics: dict = field(default_factory=dict)


def provenance(path: Path, lock: Path) -> Provenance | None:
    """What a dvc.lock knows of a file beside it, or None: no such lock, or no stage in it wrote exactly this file.

    Figures of metrics and index are read only from files that are still those of the lock.
    """
    try:
        stages = read_lock(lock)
    except InputError:
        return None
    maker = {out.md5: name for name, stage in stages.items() for out in stage.outs}
    own = md5(path)
    if own not in maker:
        return None
    found = Provenance(maker[own])
    waiting, seen = [found.stage], set()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        for key, value in stages[name].params.get("params.yaml", {}).items():
            _put(found.params, key.split("."), value)
        waiting += [maker[dep.md5] for dep in stages[name].deps if dep.md5 in maker]
        for file in _unchanged(stages[name].deps, lock.parent, "index.csv"):
            found.images = dict(Counter(line.split(",")[1] for line in read_text(file).splitlines()[1:]))
    for stage in stages.values():
        if any(dep.md5 == own for dep in stage.deps):
            for file in _unchanged(stage.outs, lock.parent, "metrics.json"):
                found.metrics |= json.loads(read_text(file)).get(found.stage.removeprefix("train_"), {})
    return found


def _unchanged(files: list[LockedFile], root: Path, name: str) -> list[Path]:
    """Those of a stage's deps or outs that have a name, and still the checksum of the lock."""
    found = [(root / file.path, file.md5) for file in files if Path(file.path).name == name]
    return [path for path, checksum in found if path.is_file() and md5(path) == checksum]


def _put(values: dict, keys: list[str], value: object) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
    if isinstance(value, dict) and isinstance(values.get(keys[-1]), dict):
        values[keys[-1]].update(value)
    else:
        values[keys[-1]] = value


def is_model_card(path: Path) -> bool:
    """Whether a file is a card of `model_card`."""
    return ABOUT in path.read_text(encoding="utf-8", errors="replace")


def model_card(name: str, model: Model, *, usage: list[str], made: Provenance | None) -> str:
    """The card of a model that is handed on under a name; `usage`: lines on how to call it."""
    classes = ["| value | class |", "|---|---|", "| 0 | background |"]
    classes += [f"| {number} | {_cell(one)} |" for number, one in enumerate(model.classes, start=1)]
    parts = [
        f"# {name}",
        ABOUT,
        "## Use\n\n" + "\n".join(usage),
        "## Classes\n\n" + "\n".join(classes),
        f"## Network\n\n```yaml\n{_yaml(model.network | {'size': model.size})}```",
    ]
    if made is None:
        parts.append("## Origin\n\nThe dvc.lock beside which this card was written does not know this network.")
    else:
        data = ", ".join(f"{count} in {split}" for split, count in made.images.items()) or "not known any more"
        parts.append(f"## Origin\n\nStage `{made.stage}`. Images: {data}.")
        parts.append("## Metrics\n\n" + _table(made.metrics))
        parts.append(f"## Params\n\n```yaml\n{_yaml(made.params)}```")
    return "\n\n".join(parts) + "\n"


def _table(metrics: dict) -> str:
    """Single numbers as a table; what could not be measured, for want of masks, is left out."""
    rows = [f"| {name} | {value} |" for name, value in metrics.items() if not isinstance(value, dict | list | None)]
    return "\n".join(["| | |", "|---|---|", *rows]) if rows else "None."


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _yaml(values: dict) -> str:
    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(values, stream)
    return stream.getvalue()
