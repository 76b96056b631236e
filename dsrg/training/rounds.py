"""Retraining in rounds: the masks that a network gives teach the next one, for as long as that settles anything.

The paper has one round. A further one labels the training images anew, with the network of the last round, and trains
on these labels. Whether it was worth it is judged without true masks: by the agreement of a round, the mean IoU
between the masks that its network learned from and those that it then gives for the same images. It is low while
labels still change (a network that forgets a class agrees badly with masks that had it) and 1 where another round would
learn from what the last one did. It rises while rounds settle; the first that does not raise it is given up.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsrg.artifacts.label_folder import LabelFolder, written_labels
from dsrg.artifacts.model_file import Model, load_weights, save_model
from dsrg.data.index import Index
from dsrg.data.palette import label_png
from dsrg.method.metrics import iou_per_class, total_confusion
from dsrg.networks.weights import as_model, pretrained
from dsrg.params import Params
from dsrg.runtime.workers import threaded_map
from dsrg.training.fit import batches_of, fit, set_up_torch
from dsrg.training.retrain import retrain_criterion

MODEL, CURVES = "model.safetensors", "curves.tsv"  # of a round, in its folder


class Round(NamedTuple):
    """One round: its number from 1, its agreement 0..1, where it was asked for, and whether its network is the one."""

    number: int
    agreement: float | None
    kept: bool


def train_in_rounds(
    labels: LabelFolder,
    *,
    rounds: int,
    classes: int,
    train: Callable[[LabelFolder, Path], Model],
    label: Callable[[Path], Iterator[NDArray]],
    scratch: Path,
) -> tuple[Path, list[Round]]:
    """Train on `labels`, and in up to `rounds` - 1 further rounds -> the folder of the kept round, all rounds.

    Each round has a folder in `scratch`, in the end with its network, MODEL; what is finished there is not done again.
    A single round is not looked at, and costs nothing beside its training.

    train   (labels, the round's folder): trains a network, with its unfinished work in the folder
    label   (the network's file): its label maps uint8 (H, W) of the same images, in order
    """
    done: list[Round] = []
    for number in range(1, rounds + 1):
        folder = scratch / f"round{number}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MODEL).is_file():
            save_model(folder / MODEL, train(labels, folder))
        if rounds == 1:
            return folder, [Round(1, None, True)]
        own = _labels_of(folder, labels, label)
        agreement = mean_agreement(labels, own, classes=classes)
        print(f"round {number} of {rounds}: its masks agree to {agreement:.4f} with those it learned from", flush=True)
        if done and not agreement > done[-1].agreement:
            return scratch / f"round{number - 1}", [*done, Round(number, agreement, False)]
        done = [*(earlier._replace(kept=False) for earlier in done), Round(number, agreement, True)]
        labels = own
    return folder, done


def train_round(
    params: Params, index: Index, labels: LabelFolder, *, classes: list[str], dsrg: Path, **options: object
) -> Model | None:
    """Train the final network on label maps, from the network in the file `dsrg` if params say so.

    options: those of `fit`. None in all processes but the first.
    """
    set_up_torch(params.seed)
    segmenter = pretrained(params, "retrain", classes=len(classes))
    if params.retrain.init == "dsrg":
        load_weights(segmenter, dsrg, kind="segmenter", stage_name="train_dsrg", classes=classes)
    batches = batches_of(params, "retrain", index, labels=labels)
    segmenter = fit(segmenter, retrain_criterion(params.retrain), batches, params.retrain, **options)
    return segmenter and as_model(segmenter, params, "retrain", classes=classes)


def mean_agreement(learned: Iterable[NDArray], own: Iterable[NDArray], *, classes: int) -> float:
    """Mean IoU over background and classes between label maps; where the first is 255 does not count.

    Of masks with nothing but background it is that of background; NaN where all is 255.
    """
    iou = iou_per_class(total_confusion(learned, own, classes=classes))
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def _labels_of(folder: Path, learned: LabelFolder, label: Callable[[Path], Iterator[NDArray]]) -> LabelFolder:
    """What a round's network makes of the images whose labels it learned, in the round's folder."""
    place = folder / "labels"
    if not place.is_dir():
        with written_labels(place, format="shards") as add:
            for image_id, png in zip(learned.ids, threaded_map(label_png, label(folder / MODEL)), strict=True):
                add(image_id, png)
    return LabelFolder(place, learned.ids, stage_name="retrain")
