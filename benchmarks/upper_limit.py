"""The upper limit: the network of `retrain`, trained on the true masks instead, and evaluated as ever.

    python -m benchmarks.upper_limit --name voc2012-mobilenet

As there, but from `network.weights` and with cross entropy, whatever params `retrain` say. Reads params.yaml and the
files of a finished `dvc repro` in the working folder. Never a stage: training sees tags only.
"""

import tempfile
from pathlib import Path

import click

from benchmarks import RESULTS
from dsrg.data.batches import Batches
from dsrg.data.classes import read_classes
from dsrg.data.index import Masks, read_ground_truth, read_index
from dsrg.files import write_json
from dsrg.inference.evaluating import evaluate_segmenter
from dsrg.inference.scoring import with_ground_truth
from dsrg.networks.weights import initial_segmenter
from dsrg.pipeline import load_stage
from dsrg.training.fit import fit, set_up_torch
from dsrg.training.mask_objective import mask_objective


@click.command()
@click.option("--name", required=True, help="Of the JSON file in benchmarks/results.")
def main(name: str) -> None:
    stage = load_stage("upper_limit")
    params, retrain, root = stage.params, stage.params.retrain, stage.data_root
    classes = read_classes(stage.file["classes"])
    truth = read_ground_truth(stage.file["ground_truth"])
    index = with_ground_truth(read_index(stage.file["index"], classes, max_side=params.data.max_side), truth)
    train, val = index.split("train"), index.split("val")
    set_up_torch(params.seed)
    network = params.network_of("retrain").model_dump(exclude={"weights"})
    batches = Batches(
        train,
        root=root,
        labels=Masks(truth, train.ids, folder=stage.file["masks"]),
        size=params.data.size,
        batch=retrain.batch,
        seed=params.seed,
        **retrain.augment.model_dump(),
    )
    with tempfile.TemporaryDirectory() as scratch:
        segmenter = fit(
            initial_segmenter(classes=len(classes), weights=params.network_of("retrain").weights, **network),
            mask_objective(loss="cross_entropy", min_prob=retrain.min_prob),
            batches,
            name="upper limit",
            steps=retrain.steps,
            precision=retrain.precision,
            optimiser=retrain.optimiser.model_dump(),
            skip_bad_steps=retrain.skip_bad_steps,
            scratch=Path(scratch),
            fingerprint="",
            curves=Path(scratch) / "curves.tsv",
        )
    masks = Masks(truth, val.ids, folder=stage.file["masks"])
    kernel = params.crf.test.model_dump()
    scores, _ = evaluate_segmenter(
        segmenter, val, root, masks, params.evaluate, classes=classes, size=params.data.size, kernel=kernel
    )
    write_json(RESULTS / f"upper_limit-{name}.json", {"steps": retrain.steps, **scores.metrics()})
    click.echo(scores.metrics())


if __name__ == "__main__":
    main()
