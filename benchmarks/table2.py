"""The paper's Table 2: what the balanced loss, growing and retraining bring, over some seeds.

    python -m benchmarks.table2 --recipe recipes/voc2012-vgg16.yaml --set data.root=/data/VOC2012 --seeds 0 1 2

With --full, last rows: the final network trained on the true masks, of which the others reach a share.
With --ladder NAME, the figures of each row and seed go to benchmarks/results/ladder.json, under that name.

Every row is a DVC experiment, so stages that rows share are computed once; needs a git repository with a commit.
Writes results/table2.md, results/table2.png and results/growth.png (what was learned from over a training), and the
figures of each run to benchmarks/results/table2-RECIPE.json, from where an interrupted table goes on. Without --recipe,
params.yaml as it is.
"""

import json
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from matplotlib.figure import Figure

from benchmarks import RESULTS, table1
from benchmarks.experiments import Experiments, experiment_options, recipe_in_place
from benchmarks.tables import by_seed, markdown_table, mean_and_deviation, percent, save_figure
from dsrg.data.classes import VOC_CLASSES
from dsrg.files import write_json, write_text

STATIC = ["grow.enabled=false"]


class Row(NamedTuple):
    """A row of the table: the params it changes, the network it reports and what the paper has there (VOC val)."""

    title: str
    changes: list[str]
    network: str
    paper: str
    key: str = ""  # in ladder.json
    classes: str = ""  # the paper's IoU of background and VOC's classes, in percent

    def in_paper(self, classes: list[str]) -> dict[str, float]:
        """The paper's IoU of the classes, in percent; empty where it has none of them, or not of all."""
        theirs = dict(zip(["background", *VOC_CLASSES], map(float, self.classes.split()), strict=False))
        return theirs if theirs.keys() >= set(classes) else {}


ROWS = [
    Row(
        "baseline: static seeds, plain loss",
        [*STATIC, "dsrg.seed_loss=plain"],
        *("dsrg", "52.5", "baseline"),
        "82.5 67.5 23.2 65.7 29.7 47.5 71.8 66.8 76.7 23.3 51.7 26.2 69.7 54.2 63.2 57.2 33.7 64.5 33.5 48.7 46.1",
    ),
    Row(
        "+ balanced loss",
        [*STATIC, "dsrg.seed_loss=balanced"],
        *("dsrg", "53.6", "bsl"),
        "82.4 71.9 29.1 67.7 32.4 49.8 75.5 67.9 74.7 22.8 54.9 26.6 64.3 55.7 64.7 56.0 35.0 67.7 32.7 50.2 45.8",
    ),
    Row(
        "+ growing (DSRG)",
        [],
        *("dsrg", "57.6", "dsrg"),
        "86.6 70.5 28.8 70.6 34.7 55.7 74.9 70.1 80.2 24.1 63.6 24.8 76.6 64.1 64.9 72.3 38.5 68.7 35.8 51.8 51.9",
    ),
    Row(
        "+ retraining",
        [],
        *("retrain", "59.0", "retrain"),
        "87.5 73.1 28.4 75.4 39.5 54.5 78.2 71.3 80.6 25.0 63.3 25.4 77.8 65.4 65.2 72.8 41.2 74.3 34.1 52.1 53.0",
    ),
]
# neighbors of the method, in the same set-up
SEC = Row(
    "SEC: gradient background, expand loss",
    next([*row.changes] for row in table1.ROWS if row.title == "SEC"),
    "dsrg",
    "50.7",
)
FULL = [
    Row("full supervision, cross-entropy", ["retrain.loss=cross_entropy"], "full", "", "full"),
    Row("full supervision, balanced loss", ["retrain.loss=balanced"], "full", "", "full_balanced"),
]
OPPONENT = Row(
    "opponent: CAM + CRF as labels, cross-entropy",
    [*STATIC, "dsrg.seed_loss=plain", "dsrg.boundary_loss=false", "seeds.crf.use=replace"],
    "dsrg",
    "",
)


@click.command()
@experiment_options(seeds="0 1 2")
@click.option("--neighbors", is_flag=True, help="Add SEC and the opponent without growing.")
@click.option("--retrained", is_flag=True, help="Add the final network that is trained on each row's masks.")
@click.option("--full", is_flag=True, help="Add the final network trained on the true masks, by both losses.")
@click.option("--ladder", metavar="NAME", help="Put the figures into benchmarks/results/ladder.json under this name.")
@click.option("--only", multiple=True, metavar="TEXT", help="Rows whose title holds this text.")
def main(
    recipe: Path | None,
    common: tuple[str, ...],
    seeds: list[int],
    neighbors: bool,
    retrained: bool,
    full: bool,
    ladder: str | None,
    only: tuple[str, ...],
    fresh: bool,
) -> None:
    seeds = seeds or [0, 1, 2]
    name = recipe.stem if recipe else "params"
    rows = [*ROWS, SEC, OPPONENT] if neighbors else ROWS
    rows = with_retraining(rows) if retrained else rows
    rows = [*rows, *FULL] if full else rows
    rows = [row for row in rows if not only or any(text in row.title for text in only)]
    found: dict[str, list[dict]] = {}
    with recipe_in_place(recipe):
        experiments = Experiments(RESULTS / f"table2-{name}.json", common=common, fresh=fresh)
        for seed in seeds:  # seed by seed, so that an unfinished table compares like with like
            for number, row in enumerate(rows):
                run = f"table2-{name}-{number}-seed{seed}"
                figures = experiments.figures(run, [f"seed={seed}", *row.changes], network=row.network)
                found.setdefault(row.title, []).append(figures)
                if ladder:
                    write_ladder(RESULTS / "ladder.json", ladder, rows, found)
    table = markdown(name, seeds, rows, found)
    write_text(Path("results/table2.md"), table)
    draw(Path("results/table2.png"), rows, found)
    draw_growth(Path("results/growth.png"), rows, found)
    click.echo(table)


def write_ladder(path: Path, name: str, rows: list[Row], found: dict[str, list[dict]]) -> None:
    """Figures a seed of the paper's rows and of full supervision, beside what else is in the file.

    Rows of the same name that were not asked for (--only) stay as they are.

    `{name: {"baseline": {"miou": [...], "miou_crf": [...]}, "bsl": ..., "dsrg": ..., "retrain": ..., "full": ...,
    "full_balanced": ...}}`
    """
    ladder = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    figures = {row.key: by_seed(found[row.title]) for row in rows if row.key and row.title in found}
    ladder[name] = ladder.get(name, {}) | figures
    write_json(path, ladder)


def with_retraining(rows: list[Row]) -> list[Row]:
    """Each row of a first network, and after it that of the final one; that of growing is the paper's own."""
    everything = []
    for row in rows:
        everything.append(row)
        if row.network == "dsrg" and row.changes:
            everything.append(Row(f"{row.title}, retrained", row.changes, "retrain", ""))
    return everything


def markdown(name: str, seeds: list[int], rows: list[Row], found: dict[str, list[dict]]) -> str:
    """The table with mean and standard deviation over the seeds, in percent."""
    classes, table = classes_of(found), []
    for row in rows:
        runs = found[row.title]
        own = (f"{100 * np.mean([run['iou_crf'].get(label, 0) for run in runs]):.1f}" for label in classes)
        table.append([row.title, *map(percent, by_seed(runs).values()), row.paper, *own])
        if theirs := row.in_paper(classes):
            table.append(["... in the paper", "", "", "", *(f"{theirs[label]:.1f}" for label in classes)])
    title = f"Table 2 with {name}, seeds {', '.join(map(str, seeds))}; classes: IoU with CRF, mean over the seeds."
    return "\n".join([title, "", *markdown_table(["", "mIoU", "with CRF", "paper", *classes], table), ""])


def classes_of(found: dict[str, list[dict]]) -> list[str]:
    """Classes that the ground truth has, in their order."""
    run = next(iter(found.values()))[0]
    return [label for label in run["iou_crf"] if label not in run["absent"]]


def draw(path: Path, rows: list[Row], found: dict[str, list[dict]]) -> None:
    """Bars of IoU per class with CRF, a group a class and a bar a row; whiskers: standard deviation over the seeds.

    Black strokes: the paper's own figures.
    """
    labels = ["mean", *classes_of(found)]
    figure = Figure(figsize=(1.5 + 0.9 * len(labels), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.85 / len(found)
    for number, row in enumerate(rows):
        runs = found[row.title]
        per_class = [{"mean": run["miou_crf"]} | run["iou_crf"] for run in runs]
        bars = [mean_and_deviation(100 * run.get(label, 0) for run in per_class) for label in labels]
        means, deviations = zip(*bars, strict=True)
        places = np.arange(len(labels)) + (number - (len(found) - 1) / 2) * width
        axes.bar(places, means, width, yerr=deviations, label=row.title, color=f"C{number}", error_kw={"lw": 0.8})
        if theirs := row.in_paper(labels[1:]):
            heights = [float(row.paper), *(theirs[label] for label in labels[1:])]
            axes.hlines(heights, places - width / 2, places + width / 2, color="black", label="paper" * (not number))
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_ylabel("IoU with CRF, percent")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    save_figure(path, figure)


def draw_growth(path: Path, rows: list[Row], found: dict[str, list[dict]]) -> None:
    """Labeled share and precision of what the watched images taught over the steps, foreground and background apart.

    A line a seed. Nothing is drawn where no run recorded any, as without masks of training images.
    """
    recorded = {row.title: [run["growth"] for run in found[row.title] if run.get("growth")] for row in rows}
    if not any(recorded.values()):
        return
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    panels = {"fg_share": "foreground: labeled share", "fg_precision": "foreground: precision"}
    panels |= {"bg_share": "background: labeled share", "bg_precision": "background: precision"}
    for plot, (key, title) in zip(axes.flat, panels.items(), strict=True):
        for number, row in enumerate(rows):
            for seed, moments in enumerate(recorded[row.title]):
                steps, values = zip(*((moment["step"], 100 * moment[key]) for moment in moments), strict=True)
                label = row.title if plot is axes.flat[0] and not seed else None
                plot.plot(steps, values, color=f"C{number}", marker=".", label=label)
        plot.set_title(title, fontsize="medium")
        plot.grid(alpha=0.3)
        plot.set_ylabel("percent")
    for plot in axes[1]:
        plot.set_xlabel("step")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    save_figure(path, figure)


if __name__ == "__main__":
    main()
