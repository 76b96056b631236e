"""One switch at a time: what each choice around growing does to the DSRG network.

    python -m benchmarks.switches --recipe recipes/voc2012-mobilenet.yaml --set data.root=/data/VOC2012

Every line is a DVC experiment that changes the recipe in one place, with one seed: a difference of a point means
nothing. Prints the table and writes benchmarks/results/switches-RECIPE.json, from where an interrupted table goes on.
"""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.experiments import Experiments, experiment_options, recipe_in_place

SWITCHES = [
    [],
    ["grow.enabled=false"],
    ["dsrg.seed_loss=plain"],
    ["dsrg.boundary_loss=false"],
    ["crf.train.unary=logp"],
    ["crf.train.unary=prob"],
    ["grow.on=crf"],
    ["grow.on=softmax"],
    ["grow.on=both"],
    ["grow.start=0"],
    ["grow.fg_thresh=0.7"],
    ["grow.fg_thresh=0.95"],
    ["grow.bg_thresh=0.9"],
    ["grow.bg_thresh=1.0"],
    ["crf.train.gaussian_weight=1.0", "crf.train.bilateral_weight=3.0"],
    ["saliency.method=mbd"],
    ["saliency.method=rbd"],
    ["saliency.method=cam"],
    ["seeds.crf.use=none"],
    ["seeds.crf.use=replace"],
]


@click.command()
@experiment_options()
@click.option("--seed", type=int, default=0)
@click.option("--only", multiple=True, metavar="TEXT", help="Lines whose switch holds this text, beside the first.")
def main(recipe: Path | None, common: tuple[str, ...], seed: int, only: tuple[str, ...], fresh: bool) -> None:
    name = recipe.stem if recipe else "params"
    table = Table("changed", "mIoU", "with CRF")
    with recipe_in_place(recipe):
        experiments = Experiments(RESULTS / f"switches-{name}.json", common=[f"seed={seed}", *common], fresh=fresh)
        for number, changes in enumerate(SWITCHES):
            title = " ".join(changes) or "nothing"
            if changes and only and not any(text in title for text in only):
                continue
            figures = experiments.figures(f"switch-{name}-{number}-seed{seed}", changes, network="dsrg")
            table.add_row(title, f"{100 * figures['miou']:.1f}", f"{100 * figures['miou_crf']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
