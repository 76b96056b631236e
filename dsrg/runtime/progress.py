"""Progress of long work: a bar on a terminal, elsewhere now and then a line."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

from dsrg.runtime.environment import env_float

if TYPE_CHECKING:
    from rich.progress import Progress


class Tracker:
    """Told of finished items; `note` is shown beside the count.

    A line at a tenth of the way, unless one came less than `quiet` seconds before; so none of short work.
    """

    def __init__(self, name: str, total: int, start: int, *, quiet: float) -> None:
        self.name, self.total, self.done, self.quiet = name, total, start, quiet
        self.began = self.told = time.monotonic()

    def advance(self, note: str = "") -> None:
        self.done += 1
        if self.done * 10 // self.total == (self.done - 1) * 10 // self.total:
            return
        now = time.monotonic()
        if now - self.told >= self.quiet or (self.done == self.total and self.told > self.began):
            line = f"{self.name}: {self.done}/{self.total}, {now - self.began:.0f} s {note}"
            print(line.rstrip(), file=sys.stderr, flush=True)
            self.told = now


class _Bar(Tracker):
    def __init__(self, name: str, total: int, start: int, progress: "Progress") -> None:
        super().__init__(name, total, start, quiet=inf)
        self.progress, self.task = progress, progress.add_task(name, total=total, completed=start, note="")

    def advance(self, note: str = "") -> None:
        self.progress.update(self.task, advance=1, **({"note": note} if note else {}))


@contextmanager
def track(name: str, total: int, *, start: int = 0, shown: bool = True) -> Iterator[Tracker]:
    """Show the progress of `total` items, `start` of them done before; or count in silence, if not `shown`.

    Without a terminal lines come at least DSRG_PROGRESS_SECONDS (10) apart.
    """
    if not shown or not sys.stderr.isatty():
        yield Tracker(name, total, start, quiet=env_float("DSRG_PROGRESS_SECONDS") if shown else inf)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as progress:
        yield _Bar(name, total, start, progress)


def tracked(items: Iterable, name: str, total: int) -> Iterator:
    """`items` one by one, with their progress shown, if there are any."""
    with track(name, total, shown=total > 0) as tracker:
        for item in items:
            yield item
            tracker.advance()
