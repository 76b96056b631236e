"""Train the classifier on image tags and report its mean average precision."""

from pathlib import Path

from numpy.typing import NDArray

from dsrg.artifacts.model_file import Model, save_model
from dsrg.data.batches import Batches
from dsrg.evaluation.classification import mean_average_precision, tag_scores
from dsrg.files import write_json
from dsrg.inference.cams import erased_cells
from dsrg.networks.network import CamClassifier
from dsrg.networks.weights import initial_classifier
from dsrg.runtime.launcher import SINGLE_PROCESS
from dsrg.stage import Stage, run_stage
from dsrg.training.cam import cam_criterion
from dsrg.training.fit import fit, set_up_torch


def train_cam(stage: Stage) -> None:
    params, cam, classes = stage.params, stage.params.cam, stage.classes
    index = stage.project.index(max_side=params.data.max_side)
    learned, size, metrics = index.split("train"), params.data.size, {}
    chosen = params.network_of("cam")
    network = chosen.model_dump(include={"backbone", "output_stride", "input"})
    network |= {"dropout": cam.dropout, "init_std": cam.init_std}
    # processes that helped with a round are not there for the next one
    topology = stage.topology if cam.erase_rounds == 1 else SINGLE_PROCESS
    if not stage.topology.is_rank_zero and topology is SINGLE_PROCESS:
        return

    def train(erased: NDArray | None, folder: Path, curves: Path) -> CamClassifier | None:
        set_up_torch(params.seed)
        shown = {"size": size, "batch": cam.batch, "seed": params.seed, "augment": cam.augment, "erased": erased}
        places = {"scratch": folder, "fingerprint": stage.scratch.name, "curves": curves, "topology": topology}
        start = {"weights": chosen.weights, "erase_thresh": cam.erase_thresh}
        fresh = initial_classifier(classes=len(classes), **start, **network)
        return fit(fresh, cam_criterion(cam), Batches(learned, labels=None, **shown), cam, name=stage.name, **places)

    classifier = train(None, stage.scratch, stage.results / "curves.tsv")
    if classifier is None:  # in all processes but the first
        return
    for number in range(2, cam.erase_rounds + 1):
        folder = stage.scratch / f"round{number}"
        erased = erased_cells(classifier, learned, size=size)
        metrics.setdefault("erased", []).append(float(erased.mean()))  # share of the cells
        classifier.later.append(train(erased, folder, folder / "curves.tsv"))
    for split in ("train", "val"):
        images = index.split(split)
        metrics[f"map_{split}"] = mean_average_precision(tag_scores(classifier, images, size=size), images.present)
    write_json(stage.results / "metrics.json", metrics)
    if cam.erase_rounds > 1:
        network |= cam.model_dump(include={"erase_rounds", "erase_thresh"})
    save_model(stage.paths.cam, Model("classifier", classes, network, size, classifier.state_dict()))
    stage.discard_scratch()


if __name__ == "__main__":
    run_stage(train_cam, together=True)
