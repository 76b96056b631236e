"""Train the classifier on image tags and report its mean average precision."""

from dsrg.artifacts.model_file import save_model
from dsrg.evaluation.classification import mean_average_precision, tag_scores
from dsrg.files import write_json
from dsrg.networks.weights import as_model
from dsrg.runtime.launcher import SINGLE_PROCESS
from dsrg.stage import Stage, run_stage
from dsrg.training.cam import train_classifier


def train_cam(stage: Stage) -> None:
    params, classes = stage.params, stage.classes
    index = stage.project.index(max_side=params.data.max_side)
    # processes that helped with a round are not there for the next one
    topology = stage.topology if params.cam.erase_rounds == 1 else SINGLE_PROCESS
    if not stage.topology.is_rank_zero and topology is SINGLE_PROCESS:
        return
    classifier, erased = train_classifier(
        params,
        index.split("train"),
        classes=len(classes),
        name=stage.name,
        scratch=stage.scratch,
        fingerprint=stage.scratch.name,
        curves=stage.results / "curves.tsv",
        topology=topology,
    )
    if classifier is None:  # in all processes but the first
        return
    metrics = {"erased": erased} if erased else {}  # shares of the cells
    for split in ("train", "val"):
        images = index.split(split)
        scores = tag_scores(classifier, images, size=params.data.size)
        metrics[f"map_{split}"] = mean_average_precision(scores, images.present)
    write_json(stage.results / "metrics.json", metrics)
    save_model(stage.paths.cam, as_model(classifier, params, "cam", classes=classes))
    stage.discard_scratch()


if __name__ == "__main__":
    run_stage(train_cam, together=True)
