"""Curves of a training: one TSV, a line every few steps, that dvc plots and any spreadsheet read.

Not DVCLive: it refuses to start in a git repository without a commit, and needs dvc where only training runs.
"""

from pathlib import Path


class Curves:
    """Appends lines `step  loss  ...` to `path` as they come, so that a running training can be watched.

    Args:
        path: the file; begun anew, unless `resume` says that it holds the curves so far.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        if not resume:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("", encoding="utf-8")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add a line; the first one brings the header."""
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            if not file.tell():
                file.write("\t".join(["step", *values]) + "\n")
            file.write("\t".join([str(step), *(f"{value:.6g}" for value in values.values())]) + "\n")
