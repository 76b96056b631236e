"""Train the final network on the pseudo labels; in further rounds, if asked for, on its own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from numpy.typing import NDArray

from dsrg.artifacts.label_folder import LabelFolder
from dsrg.artifacts.model_file import Model
from dsrg.artifacts.seeds_h5 import read_seeds
from dsrg.files import atomic_file, write_csv
from dsrg.inference.label_maps import predicted_labels
from dsrg.inference.predict import load_segmenter
from dsrg.runtime.launcher import SINGLE_PROCESS
from dsrg.runtime.progress import tracked
from dsrg.stage import Stage, run_stage
from dsrg.training.rounds import CURVES, MODEL, Round, train_in_rounds, train_round


def retrain(stage: Stage) -> None:
    params, rounds, classes = stage.params, stage.params.retrain.rounds, stage.classes
    index = stage.project.index(max_side=params.data.max_side).split("train")

    # processes that helped with a round are not there for the next one
    topology = stage.topology if rounds == 1 else SINGLE_PROCESS

    def train(labels: LabelFolder, folder: Path) -> Model | None:
        places = {"scratch": folder, "fingerprint": stage.scratch.name, "curves": folder / CURVES, "topology": topology}
        return train_round(params, index, labels, classes=classes, dsrg=stage.paths.dsrg, name=stage.name, **places)

    def label(path: Path) -> Iterator[NDArray]:
        segmenter, model = load_segmenter(path, stage_name=stage.name)
        tagged = read_seeds(stage.paths.seeds, classes=classes).with_tags(index)
        found = predicted_labels(segmenter, tagged, params.pseudo_labels, size=model.size, kernel=params.crf.test)
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
    stage.discard_scratch()


if __name__ == "__main__":
    run_stage(retrain, together=True)
