"""An estimate of a whole recipe's time on VOC 2012, tags to final model, from rates measured on this machine.

    python -m benchmarks.step --recipe RECIPE.yaml ...        first these two, which write the rates
    python -m benchmarks.throughput --recipe RECIPE.yaml ...
    python -m benchmarks.estimate --recipe RECIPE.yaml

Nothing is run: training = the recipe's steps times the measured seconds an image, seeds and pseudo labels = 10,582
images over the measured images per second. The classifier's step is taken to reach the operations per second of the
segmenter's. Evaluation is left out. Prints a table, writes JSON.
"""

import json
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.floors import operations
from benchmarks.timing import write_figures
from dsrg.data.classes import VOC_CLASSES
from dsrg.networks.network import Classifier
from dsrg.params import Params, load_params

TRAINAUG = 10_582  # images


def classifier_operations(params: Params) -> int:
    """Floating-point operations of a step of the classifier, counted with one image."""
    shared = {key: getattr(params.network, key) for key in ("backbone", "output_stride", "input")}
    cam = {"dropout": params.cam.dropout, "init_std": params.cam.init_std}
    classifier = Classifier(classes=len(VOC_CLASSES), **shared, **cam)
    image = torch.zeros(1, 3, params.data.size, params.data.size, dtype=torch.uint8)
    return params.cam.batch * operations(lambda: classifier(image).sum().backward())


def estimate(params: Params, step: dict, throughput: dict) -> dict[str, float]:
    """Seconds by stage. step, throughput: what the benchmarks of these names wrote for the recipe."""
    plain, supervised = (step["parts"][f"step, {kind}"]["median_s"] / step["batch"] for kind in ("without", "with"))
    rate = step["flop"] / step["parts"]["step, without"]["median_s"]
    speed = {name: work["2 cores"]["images_per_s"]["median"] for name, work in throughput["work"].items()}
    static = params.grow.start if params.grow.enabled and not params.dsrg.boundary_loss else 0  # steps without CRF
    return {
        "train_cam": params.cam.steps * classifier_operations(params) / rate,
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
    rates = (json.loads((RESULTS / f"{kind}-{name}.json").read_text()) for kind in ("step", "throughput"))
    seconds = estimate(params, *rates)
    table = Table(f"{name}, an estimate", "hours")
    for stage, value in [*seconds.items(), ("all", sum(seconds.values()))]:
        table.add_row(stage, f"{value / 3600:.1f}")
    Console().print(table)
    write_figures(out or RESULTS / f"estimate-{name}.json", {"images": TRAINAUG, "estimated_s": seconds})


if __name__ == "__main__":
    main()
