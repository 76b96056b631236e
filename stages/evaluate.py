"""Both networks on the evaluation split, with and without CRF."""

from itertools import islice

from dsrg.data.classes import read_classes
from dsrg.data.index import Masks, read_ground_truth, read_index
from dsrg.figures.overlays import write_label_overlays
from dsrg.files import write_json
from dsrg.inference.evaluating import evaluate_segmenter
from dsrg.inference.predict import load_segmenter
from dsrg.inference.scoring import with_ground_truth, write_per_class
from dsrg.pipeline import Stage, run_stage


def evaluate(stage: Stage) -> None:
    params, settings = stage.params, stage.params.evaluate
    classes = read_classes(stage.file["classes"])
    truth = read_ground_truth(stage.file["ground_truth"])
    index = with_ground_truth(read_index(stage.file["index"], classes).split("val"), truth)
    masks = Masks(truth, index.ids, folder=stage.file["masks"])
    scores, shown = {}, {"truth": islice(masks, settings.overlays)}
    for name, made_by in (("dsrg", "train_dsrg"), ("retrain", "retrain")):
        segmenter, model = load_segmenter(stage.file[name], made_by=made_by, classes=classes)
        scores[name], shown[name] = evaluate_segmenter(
            segmenter,
            index,
            stage.data_root,
            masks,
            settings,
            classes=classes,
            size=model.size,
            kernel=params.crf.test.model_dump(),
            keep=settings.overlays,
            title=f"{stage.name} {name}",
        )
    write_label_overlays(stage.results / "overlays", index, stage.data_root, shown)
    scores["retrain"].write_confusion(stage.results / "confusion.csv")
    write_per_class(stage.results / "per_class.csv", scores)
    write_json(stage.results / "metrics.json", {name: score.metrics() for name, score in scores.items()})


if __name__ == "__main__":
    run_stage(evaluate)
