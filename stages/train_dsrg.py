"""Train the segmentation network on seeds that grow while it learns."""

from dataclasses import replace

import numpy as np

from dsrg.artifacts.model_file import load_model, save_model
from dsrg.artifacts.seeds_h5 import read_seeds
from dsrg.figures.growth import write_growth
from dsrg.method.grid import grid_size
from dsrg.networks.weights import adopt_backbone, as_model, pretrained
from dsrg.stage import Stage, run_stage
from dsrg.training.fit import batches_of, fit, set_up_torch
from dsrg.training.growth_recorder import GrowthRecorder
from dsrg.training.weak import build_criterion


def train_dsrg(stage: Stage) -> None:
    params, dsrg = stage.params, stage.params.dsrg
    classes = stage.classes
    index = stage.project.index(max_side=params.data.max_side).split("train")
    stored = read_seeds(stage.paths.seeds, classes=classes, grid=grid_size(params.data.size))
    seeds, index = stored.in_order(index.ids), replace(index, present=stored.tags_in_order(index.ids))
    set_up_torch(params.seed)
    criterion, supervisor = build_criterion(dsrg, params.weak, grow=params.grow, crf=params.crf.train)
    watched = range(min(dsrg.watch_images, len(index)))
    few = index.pick(watched), np.asarray(stored.in_order(index.ids[: len(watched)]))
    folder = stage.scratch / "growth"
    recorder = GrowthRecorder(*few, dsrg, size=params.data.size, supervisor=supervisor, folder=folder)
    segmenter = pretrained(params, "dsrg", classes=len(classes))
    if dsrg.init == "cam":
        classifier = load_model(stage.paths.cam, kind="classifier", stage_name="train_cam", classes=classes)
        adopt_backbone(segmenter, classifier.weights)
    segmenter = fit(
        segmenter,
        criterion,
        batches_of(params, "dsrg", index, labels=seeds),
        dsrg,
        name=stage.name,
        scratch=stage.scratch,
        fingerprint=stage.scratch.name,
        curves=stage.results / "curves.tsv",
        classes=["background", *classes],
        topology=stage.topology,
        on_step_end=recorder,
    )
    if segmenter is None:  # in all processes but the first
        return
    write_growth(recorder, segmenter, maps=stage.paths.growth, strips=stage.results / "growth")
    save_model(stage.paths.dsrg, as_model(segmenter, params, "dsrg", classes=classes))
    stage.discard_scratch()


if __name__ == "__main__":
    run_stage(train_dsrg, together=True)
