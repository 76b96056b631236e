"""How right are the seeds, class by class? Compared with the training masks on the seed grid.

    python -m benchmarks.seed_quality --name voc2012-mobilenet

Reads what `dvc repro make_seeds` made in the working folder; needs masks of training images. A network learns the size
of its seeds: of a class whose seeds are wider than its objects and lie on background, it predicts too much.
"""

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from dsrg.artifacts.seeds_h5 import read_seeds
from dsrg.data.batches import WHOLE, crop_labels
from dsrg.data.index import read_ground_truth
from dsrg.evaluation.scores import with_ground_truth
from dsrg.files import write_json
from dsrg.method.metrics import confusion_matrix, label_quality, precision_recall
from dsrg.project import load_project


@click.command()
@click.option("--name", required=True, help="Of the JSON file in benchmarks/results.")
def main(name: str) -> None:
    project = load_project()
    classes = project.classes
    truth = read_ground_truth(project.paths.ground_truth)
    index = with_ground_truth(project.index().split("train"), truth)
    if not len(index):
        raise click.ClickException(f"{project.paths.ground_truth}: no training image has a mask to compare seeds with")
    seeds = read_seeds(project.paths.seeds, classes=classes).in_order(index.ids)
    confusions = []
    for image_id, labels in zip(index.ids, seeds, strict=True):
        mask = crop_labels(truth[image_id].labels(project.paths.masks), WHOLE, size=len(labels))
        confusions.append(confusion_matrix(mask, labels, classes=len(classes)))
    found = seed_quality(np.stack(confusions), index.present[:, 1:], classes)
    table = Table("class", "precision", "recall", "area", "on background")
    for label, figures in found["classes"].items():
        table.add_row(label, *(f"{100 * value:.1f}" for value in figures.values()))
    Console().print(table)
    click.echo(", ".join(f"{key} {value:.3f}" for key, value in found.items() if key != "classes"))
    write_json(RESULTS / f"seed_quality-{name}.json", found)


def seed_quality(confusions: NDArray[np.int64], tags: NDArray[np.bool_], classes: list[str]) -> dict:
    """Figures of seeds, all of them shares; of each class, and of all together. NaN where there is nothing to count.

    confusions: int64 (images, C+1, C+2), one matrix an image, as `confusion_matrix` makes them. tags: bool (images, C).

    Of a class: `precision` and `recall` of its seeds, `area`, their cells over the cells of the class in the masks, and
    `on_background`, those of them that lie on background over the same. In all, besides `label_quality`: `fg_share` and
    `bg_share`, cells that are seeds of foreground and background; `tags_seeded`, of the images' tags those with a seed;
    `tags_mostly_right`, those with more right seeds than wrong ones; `wrong_on_background`, of the wrong foreground
    seeds those on background.
    """
    total = confusions.sum(axis=0)
    labeled = confusions[:, :, 1:-1].sum(axis=1)
    right = np.diagonal(confusions, axis1=1, axis2=2)[:, 1:]
    cells, seeds, on_background = total.sum(axis=1)[1:], labeled.sum(axis=0), total[0, 1:-1]
    cells = np.where(cells > 0, cells, np.nan)
    precision, recall = precision_recall(total)
    figures = {
        "precision": precision[1:],
        "recall": recall[1:],
        "area": seeds / cells,
        "on_background": on_background / cells,
    }
    return {
        "fg_share": float(seeds.sum() / total.sum()),
        "bg_share": float(total[:, 0].sum() / total.sum()),
        **label_quality(total),
        "tags_seeded": float((labeled > 0)[tags].mean()),
        "tags_mostly_right": float((2 * right > labeled)[tags].mean()),
        "wrong_on_background": float(on_background.sum() / max((seeds - right.sum(axis=0)).sum(), 1)),
        "classes": {
            label: {name: float(values[number]) for name, values in figures.items()}
            for number, label in enumerate(classes)
        },
    }


if __name__ == "__main__":
    main()
