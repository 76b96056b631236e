"""Full supervision: the network of `retrain`, trained on the true masks instead, and evaluated as ever.

    python -m benchmarks.upper_limit --name voc2012-mobilenet

As there, but from `network.weights` and for the steps of the longer training, DSRG's or its own: where `retrain` goes
on from DSRG's weights, it has few of its own. Reads params.yaml and what `dvc repro prepare` made in the working
folder. Never a stage: training sees tags only. `benchmarks.table2 --full` has it as rows, one for each loss.
"""

import tempfile
from pathlib import Path

import click

from benchmarks import RESULTS
from benchmarks.experiments import scored
from dsrg.data.index import Masks, read_ground_truth
from dsrg.evaluation.scores import with_ground_truth
from dsrg.files import write_json
from dsrg.networks.network import DeepLab
from dsrg.networks.weights import pretrained
from dsrg.params import Params
from dsrg.project import load_project
from dsrg.training.fit import batches_of, fit, set_up_torch
from dsrg.training.retrain import retrain_criterion


@click.command()
@click.option("--name", required=True, help="Of the JSON file in benchmarks/results.")
def main(name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        segmenter = full_supervision(Path(scratch))
    found = scored(segmenter, size=load_project().params.data.size)
    write_json(RESULTS / f"upper_limit-{name}.json", found)
    click.echo(found)


def on_true_masks(params: Params) -> Params:
    """Params whose training `retrain` is full supervision."""
    steps = max(params.dsrg.steps, params.retrain.steps)
    return params.model_copy(update={"retrain": params.retrain.model_copy(update={"steps": steps})})


def full_supervision(scratch: Path, *, fingerprint: str = "") -> DeepLab:
    """The network of `retrain`, trained on the masks; goes on from a checkpoint of this fingerprint in `scratch`."""
    project = load_project()
    params = on_true_masks(project.params)
    classes = project.classes
    truth = read_ground_truth(project.paths.ground_truth)
    index = project.index(max_side=params.data.max_side).split("train")
    train = with_ground_truth(index, truth)
    set_up_torch(params.seed)
    return fit(
        pretrained(params, "retrain", classes=len(classes)),
        retrain_criterion(params.retrain),
        batches_of(params, "retrain", train, labels=Masks(truth, train.ids, folder=project.paths.masks)),
        params.retrain,
        name="full supervision",
        scratch=scratch,
        fingerprint=fingerprint,
        curves=scratch / "curves.tsv",
    )


if __name__ == "__main__":
    main()
