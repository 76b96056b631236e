"""Activation maps and saliency to seeds: what the segmentation network starts from."""

import json
from collections import deque

from dsrg.artifacts.seeds_h5 import read_seeds, write_seeds
from dsrg.evaluation.seed_statistics import SeedCounts
from dsrg.figures.seeds import write_contact_sheet, write_seed_overlays
from dsrg.files import write_json
from dsrg.inference.cams import load_classifier
from dsrg.inference.seeding import cue_seed_rows, ready_cues, ready_points, resumable_seed_rows, with_points
from dsrg.method.grid import grid_size
from dsrg.method.points import PointCounts
from dsrg.runtime.distributed import shard_work
from dsrg.stage import Stage, run_stage


def make_seeds(stage: Stage) -> None:
    params, seeds = stage.params, stage.params.seeds
    classes = stage.classes
    index = stage.project.index(max_side=params.data.max_side)
    points, pointed = ready_points(params.data, index, classes), PointCounts()
    for warning in points.warnings:
        print(f"warning: {warning}")
    index = points.tagged(index.split("train"))
    size, counts = params.data.size, SeedCounts(classes, seeds)
    settings = {"size": size, "seeds": seeds, "saliency": params.saliency}
    if seeds.cues is None:
        share = shard_work(stage.topology, stage.scratch)
        classifier = load_classifier(stage.paths.cam, classes=classes)
        rows = resumable_seed_rows(classifier, index, share=share, **settings)
    else:
        cues = ready_cues(seeds, index, size=size, classes=classes)
        print(*cues.remarks(index, classes), sep="\n")
        rows = cue_seed_rows(cues, index, **settings)
    if not stage.topology.is_rank_zero:
        deque(rows, maxlen=0)
        return
    rows = with_points(rows, points, index, classes=len(classes), counts=pointed)
    write_seeds(
        stage.paths.seeds,
        counts.watch(rows, name=stage.name, total=len(index)),
        count=len(index),
        grid=grid_size(size),
        classes=classes,
        params=json.dumps(seeds.model_dump() | {"saliency": params.saliency.model_dump()}),
    )
    made = read_seeds(stage.paths.seeds, classes=classes), index
    write_seed_overlays(stage.results / "overlays", *made, classes=classes, count=seeds.overlays)
    write_contact_sheet(stage.results / "contact_sheet.png", counts.images, *made)
    pointed_metrics = {"points": pointed.metrics(classes)} if points.marks else {}
    write_json(stage.results / "metrics.json", counts.metrics() | pointed_metrics)
    counts.write_classes(stage.results / "per_class.csv")
    counts.write_images(stage.results / "per_image.csv")
    stage.discard_scratch()


if __name__ == "__main__":
    run_stage(make_seeds, together=True)
