"""Train the final network on the pseudo labels; in further rounds, if asked for, on its own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from numpy.typing import NDArray

from dsrg.artifacts.label_folder import LabelFolder
from dsrg.artifacts.model_file import Model, load_weights
from dsrg.data.batches import Batches
from dsrg.data.classes import read_classes
from dsrg.data.index import Index, read_index
from dsrg.files import atomic_file, write_csv
from dsrg.inference.label_maps import predicted_labels
from dsrg.inference.predict import load_segmenter
from dsrg.networks.weights import initial_segmenter
from dsrg.runtime.launcher import SINGLE_PROCESS
from dsrg.runtime.progress import tracked
from dsrg.stage import Stage, run_stage
from dsrg.training.fit import fit, set_up_torch
from dsrg.training.retrain import retrain_criterion
from dsrg.training.rounds import CURVES, MODEL, Round, train_in_rounds


def retrain(stage: Stage) -> None:
    params, rounds = stage.params, stage.params.retrain.rounds
    classes = read_classes(stage.paths.classes)
    index = read_index(stage.paths.index, classes, stage.data_root, max_side=params.data.max_side).split("train")

    def train(labels: LabelFolder, folder: Path) -> Model | None:
        return train_round(stage, index, labels, classes=classes, folder=folder)

    def label(path: Path) -> Iterator[NDArray]:
        segmenter, model = load_segmenter(path, stage_name=stage.name)
        found = predicted_labels(segmenter, index, params.pseudo_labels, size=model.size, kernel=params.crf.test)
        return (one.labels for one in tracked(found, f"{stage.name} labels", len(index)))

    first = LabelFolder(stage.paths.pseudo_labels, index.ids, stage_name="make_pseudo_labels")
    if not stage.topology.is_rank_zero:
        if rounds == 1:
            train(first, stage.scratch)
        return
    limits = {"rounds": rounds, "classes": len(classes), "scratch": stage.scratch}
    kept, done = train_in_rounds(first, train=train, label=label, **limits)
    for name, target in ((MODEL, stage.paths.retrain), (CURVES, stage.results / CURVES)):
        with atomic_file(target) as temporary:
            shutil.copyfile(kept / name, temporary)
    write_csv(stage.results / "rounds.csv", list(Round._fields), done)
    stage.finish()


def train_round(stage: Stage, index: Index, labels: LabelFolder, *, classes: list[str], folder: Path) -> Model | None:
    """One training on label maps, with its unfinished work in `folder`; None in all processes but the first."""
    params, settings, chosen = stage.params, stage.params.retrain, stage.params.network_of("retrain")
    network = chosen.model_dump(exclude={"weights"})
    batching = {"batch": settings.batch, "augment": settings.augment}
    set_up_torch(params.seed)
    segmenter = initial_segmenter(classes=len(classes), weights=chosen.weights, **network)
    if settings.init == "dsrg":
        load_weights(segmenter, stage.paths.dsrg, kind="segmenter", stage_name="train_dsrg", classes=classes)
    segmenter = fit(
        segmenter,
        retrain_criterion(settings),
        Batches(index, labels=labels, size=params.data.size, seed=params.seed, **batching),
        settings,
        name=stage.name,
        scratch=folder,
        fingerprint=stage.scratch.name,
        curves=folder / CURVES,
        # processes that helped with a round are not there for the next one
        topology=stage.topology if settings.rounds == 1 else SINGLE_PROCESS,
    )
    return segmenter and Model("segmenter", classes, network, params.data.size, segmenter.state_dict())


if __name__ == "__main__":
    run_stage(retrain, together=True)
