"""Train the classifier on image tags and report its mean average precision."""

from dsrg.artifacts.model_file import Model, save_model
from dsrg.data.batches import Batches
from dsrg.data.classes import read_classes
from dsrg.data.index import read_index
from dsrg.evaluation.classification import mean_average_precision, tag_scores
from dsrg.files import write_json
from dsrg.networks.weights import initial_classifier
from dsrg.stage import Stage, run_stage
from dsrg.training.cam import cam_criterion
from dsrg.training.fit import fit, set_up_torch


def train_cam(stage: Stage) -> None:
    params, cam = stage.params, stage.params.cam
    classes = read_classes(stage.paths.classes)
    index = read_index(stage.paths.index, classes, max_side=params.data.max_side)
    set_up_torch(params.seed)
    chosen = params.network_of("cam")
    network = chosen.model_dump(include={"backbone", "output_stride", "input"})
    network |= {"dropout": cam.dropout, "init_std": cam.init_std}
    batches = Batches(
        index.split("train"),
        root=stage.data_root,
        labels=None,
        size=params.data.size,
        batch=cam.batch,
        seed=params.seed,
        **cam.augment.model_dump(),
    )
    classifier = fit(
        initial_classifier(classes=len(classes), weights=chosen.weights, **network),
        cam_criterion(score_scale=cam.score_scale, score_offset=cam.score_offset),
        batches,
        name=stage.name,
        steps=cam.steps,
        precision=cam.precision,
        optimizer=cam.optimizer.model_dump(),
        skip_bad_steps=cam.skip_bad_steps,
        scratch=stage.scratch,
        fingerprint=stage.scratch.name,
        curves=stage.results / "curves.tsv",
        topology=stage.topology,
    )
    metrics = {}
    for split in ("train", "val"):
        images = index.split(split)
        scores = tag_scores(classifier, images, stage.data_root, size=params.data.size)
        metrics[f"map_{split}"] = mean_average_precision(scores, images.present)
    write_json(stage.results / "metrics.json", metrics)
    save_model(stage.paths.cam, Model("classifier", classes, network, params.data.size, classifier.state_dict()))
    stage.finish()


if __name__ == "__main__":
    run_stage(train_cam, together=True)
