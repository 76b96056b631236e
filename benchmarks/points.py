"""What clicks bring: mIoU over the number of points on training images, set at random or in the order of clicks.

    python -m benchmarks.points --seeds 0 1 2
    python -m benchmarks.points --recipe recipes/voc2012-mobilenet.yaml --set data.root=/data/VOC2012 --seeds 0

A person is simulated by the masks of training images, which the pipeline itself never sees: one point for each tag of
an image, on the pixel deepest inside the class's largest region, of --radius pixels as far as the region is so wide.
Rows are DVC experiments, so what they share (all up to the classifier) is computed once; needs a git repository with a
commit. Writes the figures of each set to benchmarks/results/points.json, those of each run to
benchmarks/results/points-NAME.json, from where an interrupted run goes on, and results/points.png with all sets.
--quick: a dozen steps on a dozen images of the demo.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks import RESULTS
from benchmarks.experiments import Experiments, experiment_options, recipe_in_place
from benchmarks.table1 import QUICK
from benchmarks.tables import by_seed, markdown_table, mean_and_deviation, percent, save_figure
from dsrg.data.index import read_ground_truth
from dsrg.files import read_text, write_json, write_text
from dsrg.inspect.clicks import work_minutes
from dsrg.inspect.run import Run
from dsrg.project import load_project
from dsrg.sources.points import PointRow, write_point_rows


class Row(NamedTuple):
    """Which training images get points: a share of them, chosen by `random` or by the `order` of clicks."""

    name: str
    choice: str
    share: float


ROWS = [
    Row("tags", "", 0),
    Row("random-5", "random", 0.05),
    Row("order-5", "order", 0.05),
    Row("random-20", "random", 0.2),
    Row("order-20", "order", 0.2),
    Row("all", "", 1),
]


@click.command()
@experiment_options(seeds="0 1 2; --quick: 0")
@click.option("--name", help="Of the set in points.json.  [default: the recipe's, or demo]")
@click.option("--only", multiple=True, type=click.Choice([row.name for row in ROWS[1:]]), help="Rows besides tags.")
@click.option("--network", type=click.Choice(["dsrg", "retrain"]), default="dsrg", show_default=True)
@click.option(
    "--radius", type=click.FloatRange(0), default=0, show_default=True, help="Of a point, pixels at most; 0: a cell."
)
@click.option("--quick", is_flag=True, help="A dozen steps on a dozen images of the demo.")
def main(
    recipe: Path | None,
    common: tuple[str, ...],
    name: str | None,
    seeds: list[int],
    only: tuple[str, ...],
    network: str,
    radius: float,
    quick: bool,
    fresh: bool,
) -> None:
    seeds = seeds or ([0] if quick else [0, 1, 2])
    name = (name or (recipe.stem if recipe else "demo")) + "-quick" * quick
    rows = [row for row in ROWS[1:] if not only or row.name in only]
    path, table, found = RESULTS / "points.json", load_project().paths.points, {}
    with recipe_in_place(recipe), points_in_place(table):
        experiments = Experiments(RESULTS / f"points-{name}.json", common=[*common, *QUICK * quick], fresh=fresh)
        for seed in seeds:
            run, changes = f"points-{name}-{{}}-seed{seed}", [f"seed={seed}", f"data.points={table}"]
            write_point_rows(table, [])
            tags = experiments.figures(run.format("tags"), changes, network=network, variant="-tags", also=work)
            found.setdefault("tags", []).append(tags | {"images": 0, "clicks": 0})
            for row in rows:
                marked = chosen(row, tags["order"], seed=seed)
                clicks = sum(tags["clicks_of"][image_id] for image_id in marked)
                figures = experiments.figures(
                    run.format(row.name),
                    changes,
                    network=network,
                    variant=f"-{row.name}-radius{radius:g}",
                    before=lambda marked=marked: simulate(marked, radius=radius),
                )
                found.setdefault(row.name, []).append(figures | {"images": len(marked), "clicks": clicks})
                sets = json.loads(read_text(path)) if path.exists() else {}
                own = {"seeds": seeds, "network": network, "radius": radius, "set": common}
                rows_found = {row: by_seed(runs, "images", "clicks") for row, runs in found.items()}
                write_json(path, sets | {name: own | {"rows": rows_found}})
    text = markdown(name, seeds, found)
    click.echo(text)
    write_text(Path("results/points.md"), text)
    draw(Path("results/points.png"), json.loads(read_text(path)))


@contextmanager
def points_in_place(table: Path) -> Iterator[None]:
    """The project's points are those of the rows meanwhile, and what they were afterwards."""
    before = read_text(table)
    try:
        yield
    finally:
        write_text(table, before)


def work() -> dict:
    """Of the run in the working folder: training images with a mask in the order of clicks, and how long they take.

    clicks_of: how many points a person sets on each; reasons: the first of each image of the order.
    """
    run = Run(load_project())
    truth = read_ground_truth(run.paths.ground_truth)
    values = {image_id: run.click_value(image_id) for image_id in run.seeds.ids if image_id in truth}
    order = sorted(values, key=lambda image_id: -values[image_id].priority)
    points = simulated_points(order, radius=0)
    return {
        "order": order,
        "reasons": [" ".join(values[image_id].reasons(run.classes)[:1]) for image_id in order],
        "clicks_of": {image_id: len(points[image_id]) for image_id in order},
        "minutes": work_minutes(run.index.split("train").present, run.params),
    }


def chosen(row: Row, order: list[str], *, seed: int) -> list[str]:
    """The images that a row puts points on. A larger share of the same choice has those of a smaller one in it."""
    count = round(row.share * len(order))
    if row.choice == "random":
        order = np.random.default_rng(seed).permutation(sorted(order)).tolist()
    return order[:count]


def simulate(marked: list[str], *, radius: float) -> None:
    """Write the project's table of points."""
    points = simulated_points(marked, radius=radius)
    write_point_rows(load_project().paths.points, [row for rows in points.values() for row in rows])


def simulated_points(ids: list[str], *, radius: float) -> dict[str, list[PointRow]]:
    """A point for each tag of each of these images that its mask shows."""
    project = load_project()
    classes = project.classes
    index, truth = project.index(), read_ground_truth(project.paths.ground_truth)
    present = dict(zip(index.ids, index.present, strict=True))
    found: dict[str, list[PointRow]] = {image_id: [] for image_id in ids}
    for image_id, rows in found.items():
        mask = truth[image_id].labels(project.paths.masks)
        for k in np.flatnonzero(present[image_id][1:]) + 1:
            if (mask == k).any():
                x, y, depth = deepest_pixel(mask == k)
                wide = f"{min(radius, depth):.1f}" if radius else ""
                rows.append(PointRow("", image_id, str(x), str(y), classes[k - 1], wide, ""))
    return found


def deepest_pixel(region: NDArray[np.bool_]) -> tuple[int, int, float]:
    """The pixel farthest from the border of the largest connected part of a region, bool (H, W): x, y, how far."""
    inside = np.pad(region, 1).astype(np.uint8)
    _, parts, sizes, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    largest = 1 + sizes[1:, cv2.CC_STAT_AREA].argmax()
    depth = cv2.distanceTransform((parts == largest).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(x) - 1, int(y) - 1, float(depth[y, x]) - 1  # pixels nearer than `depth` are inside


def markdown(name: str, seeds: list[int], found: dict[str, list[dict]]) -> str:
    """A line a row, mean and standard deviation over the seeds, in percent."""
    table = []
    for row, runs in found.items():
        images, clicks, *scores = by_seed(runs, "images", "clicks").values()
        table.append([row, f"{np.mean(images):.0f}", f"{np.mean(clicks):.0f}", *map(percent, scores)])
    title = f"Points on {name}, seeds {', '.join(map(str, seeds))}."
    return "\n".join([title, "", *markdown_table(["points on", "images", "clicks", "mIoU", "with CRF"], table), ""])


def draw(path: Path, sets: dict[str, dict]) -> None:
    """A panel a set: mIoU with CRF over clicks, a line a choice; whiskers: standard deviation over the seeds."""
    figure = Figure(figsize=(5 * len(sets), 4), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False)
    for axes, (name, own) in zip(panels[0], sets.items(), strict=True):
        for number, choice in enumerate(("random", "order")):
            rows = [row for row in ROWS if row.choice in ("", choice) and row.name in own["rows"]]
            if all(row.choice == "" for row in rows):
                continue  # nothing measured in between: no line
            runs = [own["rows"][row.name] for row in rows]
            scores = [mean_and_deviation(100 * value for value in run["miou_crf"]) for run in runs]
            means, deviations = zip(*scores, strict=True)
            clicks = [np.mean(run["clicks"]) for run in runs]
            style = {"marker": "os"[number], "capsize": 3, "label": {"random": "at random"}.get(choice, "in order")}
            axes.errorbar(clicks, means, deviations, **style)
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlabel("clicks")
        axes.set_ylabel("mIoU with CRF, percent")
        axes.set_title(f"{name}, seeds {', '.join(map(str, own['seeds']))}", fontsize="medium")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save_figure(path, figure)


if __name__ == "__main__":
    main()
