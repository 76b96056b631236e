"""An estimate of a whole recipe's time on VOC 2012, tags to final model, from rates measured on this machine.

    python -m benchmarks.step --recipe RECIPE.yaml ...        first these two, which write the rates
    python -m benchmarks.throughput --recipe RECIPE.yaml ...
    python -m benchmarks.estimate --recipe RECIPE.yaml

Nothing is run: training = the recipe's steps times the measured seconds an image, seeds and pseudo labels = 10,582
images over the measured images per second. Evaluation is left out, that of the classifier too. Prints a table, writes
JSON.
"""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.timing import write_figures
from dsrg.params import Params, load_params

TRAINAUG = 10_582  # images


def measured(kind: str, recipe: str, *needed: str) -> dict:
    """What the benchmark `kind` wrote for a recipe. Raises ClickException where that is not there or lacks a key."""
    path = RESULTS / f"{kind}-{Path(recipe).stem}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if lacking := [key for key in needed if key not in found]:
        fault = f"it has no {', '.join(lacking)}" if found else "no such file"
        batch = f" --batch {found['batch']}" if "batch" in found else ""  # as it was
        raise click.ClickException(f"{path}: {fault}; run python -m benchmarks.{kind} --recipe {recipe}{batch}")
    return found


def estimate(params: Params, step: dict, throughput: dict) -> dict[str, float]:
    """Seconds by stage. step, throughput: what the benchmarks of these names wrote for the recipe."""
    plain, supervised = (step["parts"][f"step, {kind}"]["median_s"] / step["batch"] for kind in ("without", "with"))
    classifying = step["cam_step"]["median_s"] / step["cam_step"]["batch"]
    speed = {name: work["2 cores"]["images_per_s"]["median"] for name, work in throughput["work"].items()}
    static = params.grow.start if params.grow.enabled and not params.dsrg.boundary_loss else 0  # steps without CRF
    return {
        "train_cam": params.cam.steps * params.cam.batch * classifying,
        "make_seeds": TRAINAUG / speed["seeds"],
        "train_dsrg": params.dsrg.batch * ((params.dsrg.steps - static) * supervised + static * plain),
        "make_pseudo_labels": TRAINAUG / speed["pseudo labels"],
        "retrain": params.retrain.rounds * params.retrain.steps * params.retrain.batch * plain,
    }


@click.command()
@click.option("--recipe", default="recipes/voc2012-vgg16.yaml", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="The JSON file; benchmarks/results/estimate-RECIPE.json.")
def main(recipe: str, out: Path | None) -> None:
    name, params = Path(recipe).stem, load_params(recipe)
    step, throughput = measured("step", recipe, "parts", "cam_step"), measured("throughput", recipe, "work")
    seconds = estimate(params, step, throughput)
    table = Table(f"{name}, an estimate", "hours")
    for stage, value in [*seconds.items(), ("all", sum(seconds.values()))]:
        table.add_row(stage, f"{value / 3600:.1f}")
    Console().print(table)
    write_figures(out or RESULTS / f"estimate-{name}.json", {"images": TRAINAUG, "estimated_s": seconds})


if __name__ == "__main__":
    main()
