"""The paper's Table 1 in one arena: methods that learn from tags alone, on the same images, network, steps and CRF.

    python -m benchmarks.table1 --recipe recipes/voc2012-mobilenet.yaml --set data.root=/data/VOC2012 --seeds 0 1 2

Only the supervision differs between rows; the published figures beside them do not come from such an arena. Rows are
DVC experiments, so stages that they share are computed once; needs a git repository with a commit. Writes
results/table1.md and results/table1.png, each row's figures to benchmarks/results/table1.json, and those of each run to
benchmarks/results/table1-RECIPE.json, from where an interrupted table goes on. --quick: a dozen steps on a dozen images
of the demo, to see that all rows run.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
from matplotlib.figure import Figure
from ruamel.yaml import YAML

from benchmarks import RESULTS
from benchmarks.experiments import Experiments, experiment_options, recipe_in_place
from benchmarks.tables import by_seed, markdown_table, mean_and_deviation, percent, save_figure
from dsrg.files import write_json, write_text
from dsrg.method.grid import STRIDE
from dsrg.method.weak import LOSSES
from dsrg.params import load_params

QUICK = ["shapes.train=12", "shapes.val=4", "data.size=65", "network.head_channels=16", "seeds.overlays=2"]
QUICK += ["cam.steps=12", "dsrg.steps=12", "retrain.steps=12", "cam.batch=4", "dsrg.batch=4", "retrain.batch=4"]
QUICK += ["grow.start=3", "dsrg.watch_images=2"]


class Row(NamedTuple):
    """A row that is run, see table1.yaml; `name` is that of its figures in table1.json."""

    name: str
    title: str
    published: tuple[float | None, float | None] = (None, None)
    changes: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    rate: int | None = None
    network: str = "dsrg"

    def all_changes(self, output_stride: int) -> list[str]:
        if self.rate is None:
            return [*self.changes]
        cells = max(1, self.rate * STRIDE // output_stride)
        return [*self.changes, "network.head=largefov", f"network.rates=[{cells}]"]


def read_rows(named: dict[str, dict], losses: Iterable[str]) -> list[Row]:
    """The rows, and one for every loss that has none."""
    rows = [Row(name, **row | {"changes": tuple(flat(row.get("changes", [])))}) for name, row in named.items()]
    known = {change for row in rows for change in row.changes}
    new = {loss: f"dsrg.objective={loss}" for loss in losses}
    return rows + [Row(loss, loss, changes=(change,)) for loss, change in new.items() if change not in known]


def flat(parts: Iterable[str | list]) -> Iterator[str]:
    for part in parts:
        yield from [part] if isinstance(part, str) else flat(part)


TABLE = YAML(typ="safe", pure=True).load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
ROWS = read_rows(TABLE["rows"], LOSSES)
NOT_RUN: dict[str, dict] = TABLE["not_run"]


@click.command()
@experiment_options(seeds="0 1 2; --quick: 0")
@click.option("--only", multiple=True, metavar="NAME", help="Rows of these names.")
@click.option("--quick", is_flag=True, help="A dozen steps on a dozen images of the demo.")
def main(
    recipe: Path | None, common: tuple[str, ...], seeds: list[int], only: tuple[str, ...], quick: bool, fresh: bool
) -> None:
    seeds = seeds or ([0] if quick else [0, 1, 2])
    name = (recipe.stem if recipe else "params") + ("-quick" if quick else "")
    if unknown := {*only} - {row.name for row in ROWS}:
        raise click.BadParameter(f"no row {', '.join(sorted(unknown))}; rows: {', '.join(row.name for row in ROWS)}")
    rows = [row for row in ROWS if not only or row.name in only]
    click.echo(TABLE["prediction"])
    found: dict[str, list[dict]] = {}
    with recipe_in_place(recipe):
        stride = load_params().network.output_stride
        experiments = Experiments(RESULTS / f"table1-{name}.json", common=[*common, *QUICK * quick], fresh=fresh)
        for seed in seeds:  # seed by seed, so that an unfinished table compares like with like
            for row in rows:
                changes = [f"seed={seed}", *row.all_changes(stride)]
                run = f"table1-{name}-{row.name.replace('_', '-')}-seed{seed}"
                found.setdefault(row.name, []).append(experiments.figures(run, changes, network=row.network))
                write_json(RESULTS / ("table1-quick.json" if quick else "table1.json"), summary(rows, found))
    table = markdown(name, seeds, rows, found)
    write_text(Path("results/table1.md"), table)
    draw(Path("results/table1.png"), rows, found)
    click.echo(table)


def summary(rows: list[Row], found: dict[str, list[dict]]) -> dict[str, dict]:
    """`{NAME: {"miou": [a seed], "miou_crf": [..], "published_val": percent or None, "published_test": ..}}`."""
    return {
        row.name: by_seed(found[row.name]) | {"published_val": row.published[0], "published_test": row.published[1]}
        for row in rows
        if row.name in found
    }


def markdown(name: str, seeds: list[int], rows: list[Row], found: dict[str, list[dict]]) -> str:
    """The table, mean and standard deviation over the seeds in percent; what its marks mean; the prediction."""
    lines = [f"Table 1 with {name}, seeds {', '.join(map(str, seeds))}; mIoU on the evaluation split.", ""]
    table = []
    for row in rows:
        ours = map(percent, by_seed(found[row.name]).values())
        table.append([row.title, *ours, *map(shown, row.published), ", ".join(row.marks)])
    for title, one in NOT_RUN.items():
        table.append([f"*{title}*", "", "", *map(shown, one["published"]), f"*not run: {one['why']}*"])
    lines += markdown_table(["method", "mIoU", "with CRF", "published val", "published test", "remarks"], table)
    used = {mark for row in rows for mark in row.marks}
    lines += ["", *(f"- {mark}: {meaning}" for mark, meaning in TABLE["remarks"].items() if mark in used)]
    return "\n".join(lines) + f"\n\n{TABLE['footnotes']}\n{TABLE['prediction']}"


def shown(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.1f}"


def draw(path: Path, rows: list[Row], found: dict[str, list[dict]]) -> None:
    """A bar a row, mIoU with CRF, whiskers: standard deviation over the seeds; dots: without CRF; strokes: published.

    Gray: methods that are not run, as published on val.
    """
    runs = [(row.title, row.published, found[row.name]) for row in rows]
    count = len(runs) + len(NOT_RUN)
    figure = Figure(figsize=(8, 1 + 0.28 * count), layout="constrained")
    axes = figure.subplots()
    for number, (_, published, own) in enumerate(runs):
        mean, deviation = mean_and_deviation(100 * run["miou_crf"] for run in own)
        plain, _ = mean_and_deviation(100 * run["miou"] for run in own)
        place = count - 1 - number
        label = {"label": "with CRF"} if not number else {}
        axes.barh(place, mean, xerr=deviation, color="C0", error_kw={"lw": 0.8}, **label)
        axes.plot(plain, place, "o", color="C1", ms=4, **({"label": "without CRF"} if not number else {}))
        if published[0] is not None:
            axes.vlines(published[0], place - 0.4, place + 0.4, color="black")
    axes.barh(
        range(len(NOT_RUN))[::-1],
        [one["published"][0] for one in NOT_RUN.values()],
        color="lightgray",
        label="published",
    )
    axes.set_yticks(range(count), [*(title for title, *_ in runs), *NOT_RUN][::-1])
    axes.set_xlabel("mIoU, percent; black: published, on VOC 2012 val")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    save_figure(path, figure)


if __name__ == "__main__":
    main()
