"""Curves of a training: TSVs, lines every few steps, that dvc plots and any spreadsheet read.

Not DVCLive: it refuses to start in a git repository without a commit, and needs dvc where only training runs.
"""

from pathlib import Path

import torch
from torch import Tensor

from dsrg.errors import RunError
from dsrg.files import write_text

PER_CLASS = "per_class.tsv"


class NotFiniteError(RunError):
    """A value of a training became NaN or infinite: the message names the step and the images."""


class Curves:
    """Means of named values over a few steps, added to files as they come, so that a running training can be watched.

    Values stay on their device until a line is written, so a GPU never waits for them.

    Args:
        path: the file for single values, `step  loss  ...`; begun anew. None = there are no files.
        classes: background and the classes, where there are values a class; these go into per_class.tsv beside it, a
            line `step  class  ...` for each of them.
    """

    def __init__(self, path: Path | None, classes: list[str] | None) -> None:
        self.classes = classes or []
        self.paths = [] if path is None else [path] if classes is None else [path, path.with_name(PER_CLASS)]
        self.texts = ["" for _ in self.paths]
        self.recent: list[dict[str, Tensor]] = []  # values of the steps since the last line ...
        self.seen: list[tuple[int, list[str]]] = []  # ... the steps' numbers and images
        for own in self.paths:
            write_text(own, "")

    def add(self, step: int, ids: list[str], values: dict[str, Tensor]) -> None:
        """The values of a step (from 1) on the images `ids`: scalars, and vectors of one number a class, (C+1,)."""
        self.recent.append(values)
        self.seen.append((step, ids))

    def write(self, step: int, **more: float) -> dict[str, Tensor]:
        """Add a line, and one a class, and return the means. Raises NotFiniteError."""
        means = {name: column.mean(dim=0) for name, column in self._columns().items()}
        vectors = {name: value.tolist() for name, value in means.items() if value.ndim}
        scalars = {name: float(value) for name, value in means.items() if not value.ndim}
        rows = zip(self.classes, *vectors.values(), strict=False)
        lines = [dict(zip(["step", "class", *vectors], [step, *row], strict=True)) for row in rows]
        tables = [[{"step": step, **scalars, **more}], lines]
        for number, (path, table) in enumerate(zip(self.paths, tables, strict=False)):
            added = _text(table, header=not self.texts[number])
            with open(path, "a", encoding="utf-8", newline="") as file:
                file.write(added)
            self.texts[number] += added
        self.recent, self.seen = [], []
        return means

    def finish(self, path: Path) -> None:
        """The training is done: write the curves to `path`, and those a class beside it, atomically."""
        for text, final in zip(self.texts, [path, path.with_name(PER_CLASS)], strict=False):
            write_text(final, text)

    def state(self) -> dict:
        """What `restore` needs, in tensors and plain values. Raises NotFiniteError."""
        return {"texts": [*self.texts], "recent": self._columns(), "seen": [*self.seen]}

    def restore(self, state: dict, device: torch.device) -> None:
        """Go on where `state` was called, with values on `device`; lines written since are forgotten."""
        self.texts, self.seen = [*state["texts"]], [*state["seen"]]
        columns = {name: column.to(device) for name, column in state["recent"].items()}
        self.recent = [{name: column[row] for name, column in columns.items()} for row in range(len(self.seen))]
        for path, text in zip(self.paths, self.texts, strict=False):
            write_text(path, text)

    def _columns(self) -> dict[str, Tensor]:
        """Each value over the recent steps, float32 (steps, ...), all finite, fetched from the device at once."""
        if not self.recent:
            return {}
        first = self.recent[0]
        table = torch.stack([torch.cat([value.float().flatten() for value in row.values()]) for row in self.recent])
        columns = table.cpu().split([value.numel() for value in first.values()], dim=1)
        columns = {name: column.reshape(-1, *first[name].shape) for name, column in zip(first, columns, strict=True)}
        for row, (step, ids) in enumerate(self.seen):
            check_finite({name: column[row] for name, column in columns.items()}, step, ids)
        return columns


def check_finite(values: dict[str, Tensor], step: int, ids: list[str]) -> None:
    """Raises NotFiniteError if one of the values is no finite number. Waits for the device."""
    for name, value in values.items():
        bad = value[~value.isfinite()]
        if len(bad):
            raise NotFiniteError(
                f"{name} is {float(bad[0]):.0f} at step {step} with the images {', '.join(ids)}. "
                "A lower learning rate or precision: fp32 usually helps"
            )


def _text(lines: list[dict], *, header: bool) -> str:
    """Lines of a TSV, real numbers with six digits."""
    table = [list(lines[0])] if header else []
    table += [[f"{value:.6g}" if isinstance(value, float) else str(value) for value in row.values()] for row in lines]
    return "".join("\t".join(cells) + "\n" for cells in table)
