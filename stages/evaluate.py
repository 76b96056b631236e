"""Both networks on the evaluation split, with and without CRF, and the page that sums up the run."""

from dataclasses import replace
from platform import python_version

from dsrg.data.index import Masks, read_ground_truth
from dsrg.evaluation.scores import best_and_worst, score_table, with_ground_truth, write_per_class, write_per_image
from dsrg.evaluation.segmentation import evaluate_segmenter
from dsrg.figures.overlays import write_label_overlays
from dsrg.figures.report import BEST_WORST_COUNT, report_page
from dsrg.files import write_json, write_text
from dsrg.inference.predict import load_segmenter
from dsrg.runtime.distributed import shard_work
from dsrg.stage import Stage, library_versions, run_stage


def evaluate(stage: Stage) -> None:
    params, settings, classes = stage.params, stage.params.evaluate, stage.classes
    truth, whole = read_ground_truth(stage.paths.ground_truth), stage.project.index()
    index = with_ground_truth(whole.split("val"), truth)
    masks = Masks(truth, index.ids, folder=stage.paths.masks)
    scores, maps = {}, {}
    share = shard_work(stage.topology, stage.scratch)
    for name, stage_name in (("dsrg", "train_dsrg"), ("retrain", "retrain")):
        segmenter, model = load_segmenter(getattr(stage.paths, name), stage_name=stage_name, classes=classes)
        wanted = {"classes": classes, "size": model.size, "kernel": params.crf.test, "title": f"{stage.name} {name}"}
        wanted |= {
            "keep": settings.overlays,
            "ends": BEST_WORST_COUNT,
            "share": replace(share, folder=share.folder / name),
        }
        scores[name], maps[name] = evaluate_segmenter(segmenter, index, masks, settings, **wanted)
    if not share.is_rank_zero:
        return
    ends = best_and_worst(dict(enumerate(scores["retrain"].images)), BEST_WORST_COUNT)
    first = range(min(settings.overlays, len(index)))
    for folder, rows, found in (("overlays", first, maps), ("best_worst", ends, {"prediction": maps["retrain"]})):
        shown = {"truth": (masks[row] for row in rows)}
        shown |= {name: [labels[row] for row in rows] for name, labels in found.items()}
        write_label_overlays(stage.results / folder, index.pick(rows), shown)
    scores["retrain"].write_confusion(stage.results / "confusion.csv")
    write_per_class(stage.results / "per_class.csv", scores)
    write_per_image(stage.results / "per_image.csv", index.ids, scores)
    write_json(stage.results / "metrics.json", {name: score.metrics() for name, score in scores.items()})
    page = report_page(
        stage.paths.results,
        classes=classes,
        images={"to learn from": len(whole.split("train")), "to evaluate on": len(index)},
        params=stage.params.model_dump(exclude={"data": {"root"}}),  # where the data lies changes nothing
        versions={"Python": python_version()} | library_versions(),
    )
    write_text(stage.paths.report, page)
    stage.discard_scratch()
    print(f"{score_table(scores)}\n{stage.paths.report}", flush=True)


if __name__ == "__main__":
    run_stage(evaluate, together=True)
