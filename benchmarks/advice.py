"""How good is the advice of `dsrg advise`? The same sweep compared with training masks, which the advice never sees.

    python -m benchmarks.advice --name demo [--images 400]

Reads params.yaml and the files of a `dvc repro` in the working folder; needs masks of training images. A pair of
thresholds is as good as the mean of two F1: of foreground seeds (all classes) and of background seeds.
"""

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import RESULTS
from dsrg.advise.sweep import MEASURES, Sweep, findings, sweep_thresholds, why_no_witness
from dsrg.data.batches import WHOLE, crop_labels
from dsrg.data.index import read_ground_truth
from dsrg.errors import InputError
from dsrg.files import write_json
from dsrg.method.grid import UNLABELED
from dsrg.method.metrics import confusion_matrix, label_quality
from dsrg.project import load_project

COUNTED = ("fg_precision", "fg_recall", "bg_precision", "bg_recall")


def confusions(mask: NDArray[np.uint8], seeds: Tensor, tags: NDArray[np.intp], *, classes: int) -> NDArray[np.int64]:
    """Of seeds at P pairs, (P, h, w), labeled by places in `tags` (0 first), and a mask (h, w): (P, C + 1, C + 2)."""
    labels = np.full(256, UNLABELED, np.uint8)
    labels[: len(tags)] = tags
    return np.stack([confusion_matrix(mask, labels[one], classes=classes) for one in seeds.numpy()])


def mean_f1(quality: dict[str, float]) -> float:
    """Mean of foreground's and background's F1; a side without seeds has 0."""
    sides = [(quality[f"{side}_precision"], quality[f"{side}_recall"]) for side in ("fg", "bg")]
    return float(np.mean([2 * p * r / (p + r) if p + r > 0 else 0.0 for p, r in sides]))


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places in order, equal values their mean place."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's, over what both know; NaN where one does not vary."""
    known = np.isfinite(first) & np.isfinite(second)
    one, other = ranks(first[known]), ranks(second[known])
    return float(np.corrcoef(one, other)[0, 1]) if one.std() and other.std() else float("nan")


@click.command()
@click.option("--name", required=True, help="Of the JSON file in benchmarks/results.")
@click.option("--images", type=click.IntRange(2), default=200, show_default=True, help="Training images, drawn.")
def main(name: str, images: int) -> None:
    project = load_project()
    if why := why_no_witness(project.params.saliency):
        raise InputError(f"nothing is advised: {why}")
    classes = project.classes
    index, truth = project.index(), read_ground_truth(project.paths.ground_truth)
    row_of = {image_id: row for row, image_id in enumerate(index.ids)}
    sweep, total = Sweep(project.params.seeds), np.zeros(1)
    seeds_at_every_pair = sweep_thresholds(sweep, project, images=images)
    for image_id, seeds in seeds_at_every_pair:
        if image_id in truth:
            mask = crop_labels(truth[image_id].labels(project.paths.masks), WHOLE, size=seeds.shape[-1])
            tags = np.flatnonzero(index.present[row_of[image_id]])
            total = total + confusions(mask, seeds, tags, classes=len(classes))
    quality = [label_quality(confusion) for confusion in total]
    shape = len(sweep.fg), len(sweep.bg)
    score = np.array([mean_f1(one) for one in quality]).reshape(shape)
    precision = np.array([one["fg_precision"] for one in quality]).reshape(shape)
    found, measures = findings(sweep, project.params), sweep.measures()
    if found["advised"] is None:
        raise InputError(found["reason"])

    def nearest(pair: dict[str, float]) -> tuple[int, int]:
        return tuple(int(np.abs(np.array(found[key]) - value).argmin()) for key, value in pair.items())

    places = {
        "best by masks": np.unravel_index(score.argmax(), shape),
        "advised": nearest(found["advised"]["best"]),
        "params.yaml (nearest)": nearest(found["params"]),
    }
    rows, table = {}, Table("thresholds", "fg", "bg", "mean F1", "of the best", *COUNTED)
    for title, (row, column) in places.items():
        own = quality[row * shape[1] + column]
        rows[title] = {
            "fg_thresh": sweep.fg[row],
            "bg_thresh": sweep.bg[column],
            "mean_f1": float(score[row, column]),
            "of_the_best": float(score[row, column] / score.max()),
            **{key: own[key] for key in COUNTED},
        }
        table.add_row(title, *(f"{value:.3f}" for value in rows[title].values()))
    within = [
        (low <= np.array(found[key])) & (np.array(found[key]) <= high)
        for key, (low, high) in found["advised"]["range"].items()
    ]
    inside = score[np.ix_(*within)]
    Console(width=140).print(table)
    figures = {
        "images": len(sweep.tables),
        "pairs": rows,
        "range": found["advised"]["range"],
        "of_the_best_in_range": {
            "least": float(inside.min() / score.max()),
            "mean": float(inside.mean() / score.max()),
            "most": float(inside.max() / score.max()),
        },
        "of_the_best_everywhere": {
            "least": float(score.min() / score.max()),
            "mean": float(score.mean() / score.max()),
        },
        "better_pairs": float((score > score[places["advised"]]).mean()),
        "rank_correlation_with_mean_f1": {key: rank_correlation(measures[key], score) for key in MEASURES},
        "rank_correlation_with_fg_precision": {key: rank_correlation(measures[key], precision) for key in MEASURES},
    }
    Console().print({key: value for key, value in figures.items() if key != "pairs"})
    write_json(RESULTS / f"advice-{name}.json", figures)


if __name__ == "__main__":
    main()
