"""How right are grown seeds? One trained network, many rules of growing, compared with the training masks.

    python -m benchmarks.growth_quality --name voc2012-mobilenet [--network data/dsrg.safetensors]

Reads params.yaml and the files of a `dvc repro` in the working folder; needs masks of training images. Each rule grows
the seeds of every training image with the same network, as its next training step would. No training: it tells in
minutes which rule labels much and right, what a training with it then makes of it is another question.
"""

from itertools import product
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from dsrg.artifacts.seeds_h5 import read_seeds
from dsrg.data.batches import WHOLE, crop_labels
from dsrg.data.index import read_ground_truth
from dsrg.evaluation.scores import with_ground_truth
from dsrg.files import write_json
from dsrg.inference.predict import load_segmenter
from dsrg.inference.preprocess import image_batches, warp_to_square
from dsrg.method.grid import grid_size
from dsrg.method.losses import smoothed_softmax
from dsrg.method.metrics import confusion_matrix, label_quality
from dsrg.params import Grow
from dsrg.project import load_project
from dsrg.runtime.progress import tracked
from dsrg.training.dsrg import Supervisor

THRESHOLDS = {
    "crf": [(0.85, 0.99), (0.999, 0.999), (0.85, 1.0)],
    "softmax": [(0.5, 0.7), (0.7, 0.8), (0.85, 0.99)],
    "both": [(0.5, 0.7), (0.7, 0.8), (0.85, 0.9), (0.85, 0.99)],
}


@click.command()
@click.option("--name", required=True, help="Of the JSON file in benchmarks/results.")
@click.option("--network", type=click.Path(path_type=Path), help="A segmenter's file; default: data/dsrg.safetensors.")
def main(name: str, network: Path | None) -> None:
    project = load_project()
    params = project.params
    classes = project.classes
    truth = read_ground_truth(project.paths.ground_truth)
    index = project.index(max_side=params.data.max_side).split("train")
    index = with_ground_truth(index, truth)
    seeds = torch.from_numpy(np.asarray(read_seeds(project.paths.seeds, classes=classes).in_order(index.ids)))
    segmenter, model = load_segmenter(network or project.paths.dsrg, stage_name="train_dsrg")
    grid = grid_size(model.size)

    rules = {"seeds alone": None}
    for unary, (on, pairs) in product(("logp", "prob"), THRESHOLDS.items()):
        if on == "softmax" and unary == "prob":
            continue  # no CRF in it
        for fg_thresh, bg_thresh in pairs:
            grow = Grow(**{"enabled": True, "start": 0, "on": on, "fg_thresh": fg_thresh, "bg_thresh": bg_thresh})
            title = f"{on} {fg_thresh} / {bg_thresh}" + ("" if on == "softmax" else f", CRF on {unary}")
            crf = params.crf.train.model_copy(update={"unary": unary})
            rules[title] = Supervisor(crf=crf, grow=grow, boundary_loss=False)
    confusions = dict.fromkeys(rules, 0)
    batches = image_batches(index, batch=16)
    for rows, images in tracked(batches, "growing", -(-len(index) // 16)):
        inputs = warp_to_square(images, model.size)
        with torch.inference_mode():
            probs = smoothed_softmax(segmenter(inputs).float(), min_prob=params.dsrg.min_prob)
        present = torch.from_numpy(index.present[rows])
        masks = [truth[index.ids[row]].labels(project.paths.masks) for row in rows]
        masks = np.stack([crop_labels(mask, WHOLE, size=grid) for mask in masks])
        for title, supervisor in rules.items():
            labels = seeds[rows]
            if supervisor is not None:
                labels = supervisor(inputs, probs, labels, present, step=0).labels
            confusions[title] = confusions[title] + confusion_matrix(masks, labels.numpy(), classes=len(classes))
    table = Table("labels", "labeled", "right", "fg precision", "fg recall", "bg precision", "bg recall", "mIoU")
    figures = {}
    for title, confusion in confusions.items():
        quality = label_quality(confusion)
        quality["right"] = float(np.trace(confusion) / confusion[:, :-1].sum())
        names = ("coverage", "right", "fg_precision", "fg_recall", "bg_precision", "bg_recall", "miou")
        table.add_row(title, *(f"{100 * quality[key]:.1f}" for key in names))
        figures[title] = quality
    Console().print(table)
    write_json(RESULTS / f"growth_quality-{name}.json", figures)


if __name__ == "__main__":
    main()
