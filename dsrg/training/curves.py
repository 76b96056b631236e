"""Curves of a training: TSVs, lines every few steps, that dvc plots and any spreadsheet read.

Not DVCLive: it refuses to start in a git repository without a commit, and needs dvc where only training runs.
"""

from pathlib import Path

from torch import Tensor

from dsrg.files import write_text

PER_CLASS = "per_class.tsv"


class Curves:
    """Appends lines as they come, so that a running training can be watched.

    Args:
        path: the file for single values, `step  loss  ...`.
        classes: background and the classes, where there are values a class; these go into per_class.tsv beside it, a
            line `step  class  ...` for each of them.
    """

    def __init__(self, path: Path, classes: list[str] | None) -> None:
        self.classes = classes or []
        self.paths = [path] if classes is None else [path, path.with_name(PER_CLASS)]

    def begin(self) -> None:
        """Begin anew, with empty files."""
        for path in self.paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("", encoding="utf-8")

    def log(self, step: int, values: dict[str, Tensor]) -> None:
        """Add a line, and one a class. values: scalars, and vectors of one number a class, (C+1,)."""
        vectors = {name: value.tolist() for name, value in values.items() if value.ndim}
        scalars = {name: float(value) for name, value in values.items() if not value.ndim}
        rows = zip(self.classes, *vectors.values(), strict=False)
        lines = [dict(zip(["step", "class", *vectors], [step, *row], strict=True)) for row in rows]
        for path, table in zip(self.paths, [[{"step": step, **scalars}], lines], strict=False):
            _append(path, table)

    def finish(self, path: Path) -> None:
        """The training is done: write the curves to `path`, and those a class beside it, whole or not at all."""
        for own, final in zip(self.paths, [path, path.with_name(PER_CLASS)], strict=False):
            write_text(final, own.read_text(encoding="utf-8"))


def _append(path: Path, lines: list[dict]) -> None:
    """Add lines; the first ones bring the header. Real numbers get six digits."""
    with open(path, "a", encoding="utf-8", newline="") as file:
        if not file.tell():
            file.write("\t".join(lines[0]) + "\n")
        for line in lines:
            cells = (f"{value:.6g}" if isinstance(value, float) else str(value) for value in line.values())
            file.write("\t".join(cells) + "\n")
