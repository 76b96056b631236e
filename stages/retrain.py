"""Train the final network on the pseudo labels; in further rounds, if asked for, on its own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from numpy.typing import NDArray

from dsrg.artifacts.label_folder import LabelFolder
from dsrg.artifacts.model_file import Model, load_weights
from dsrg.data.batches import Batches
from dsrg.data.classes import read_classes
from dsrg.data.index import read_index
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
    params, retrain = stage.params, stage.params.retrain
    classes = read_classes(stage.paths.classes)
    index = read_index(stage.paths.index, classes, max_side=params.data.max_side).split("train")
    chosen = params.network_of("retrain")
    network = chosen.model_dump(exclude={"weights"})
    labelling = stage.params.pseudo_labels.model_dump(exclude={"format", "overlays"})
    labelling["kernel"] = params.crf.test.model_dump()
    # processes that helped with a round are not there for the next one
    topology = stage.topology if retrain.rounds == 1 else SINGLE_PROCESS

    def train(labels: LabelFolder, folder: Path) -> Model:
        set_up_torch(params.seed)
        segmenter = initial_segmenter(classes=len(classes), weights=chosen.weights, **network)
        if retrain.init == "dsrg":
            load_weights(segmenter, stage.paths.dsrg, kind="segmenter", stage_name="train_dsrg", classes=classes)
        shown = {"size": params.data.size, "batch": retrain.batch, "seed": params.seed}
        segmenter = fit(
            segmenter,
            retrain_criterion(loss=retrain.loss, min_prob=retrain.min_prob),
            Batches(index, root=stage.data_root, labels=labels, **shown, **retrain.augment.model_dump()),
            name=stage.name,
            steps=retrain.steps,
            precision=retrain.precision,
            optimizer=retrain.optimizer.model_dump(),
            skip_bad_steps=retrain.skip_bad_steps,
            scratch=folder,
            fingerprint=stage.scratch.name,
            curves=folder / CURVES,
            topology=topology,
        )
        return Model("segmenter", classes, network, params.data.size, segmenter.state_dict())

    def label(path: Path) -> Iterator[NDArray]:
        segmenter, model = load_segmenter(path, stage_name=stage.name)
        found = predicted_labels(segmenter, index, stage.data_root, size=model.size, **labelling)
        return (labels for labels, *_ in tracked(found, f"{stage.name} labels", len(index)))

    first = LabelFolder(stage.paths.pseudo_labels, index.ids, stage_name="make_pseudo_labels")
    if not stage.topology.is_rank_zero:
        if topology is not SINGLE_PROCESS:
            train(first, stage.scratch)  # and ends there
        return
    limits = {"rounds": retrain.rounds, "classes": len(classes), "scratch": stage.scratch}
    kept, rounds = train_in_rounds(first, train=train, label=label, **limits)
    for name, target in ((MODEL, stage.paths.retrain), (CURVES, stage.results / CURVES)):
        with atomic_file(target) as temporary:
            shutil.copyfile(kept / name, temporary)
    write_csv(stage.results / "rounds.csv", list(Round._fields), rounds)
    stage.finish()


if __name__ == "__main__":
    run_stage(retrain, together=True)
