"""What tables of figures share: means over seeds, lines of Markdown, pictures."""

import statistics
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from dsrg.files import atomic_file


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation (of the sample; 0 of a single value)."""
    values = list(values)
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def percent(values: Iterable[float]) -> str:
    mean, deviation = mean_and_deviation(100 * value for value in values)
    return f"{mean:.1f} ± {deviation:.1f}"


def by_seed(runs: list[dict], *keys: str) -> dict[str, list]:
    """`{"miou": [a seed], "miou_crf": [..]}`, and more `keys` of a row's runs."""
    return {key: [run[key] for run in runs] for key in (*keys, "miou", "miou_crf")}


def markdown_table(header: list[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Its lines."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return [first, f"|{'---|' * len(header)}", *others]


def save_figure(path: Path, figure: Figure) -> None:
    """Write it as a PNG, atomically."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
