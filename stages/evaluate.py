"""Both networks on the evaluation split, with and without CRF."""

from dsrg.data.classes import read_classes
from dsrg.data.images import read_image, read_mask
from dsrg.data.index import read_ground_truth, read_index
from dsrg.figures.overlays import overlay, panels, write_picture
from dsrg.files import whole_folder, write_json
from dsrg.inference.predict import load_segmenter, plain_and_refined, prediction_jobs
from dsrg.inference.scoring import Scores, with_ground_truth, write_per_class
from dsrg.pipeline import Stage, run_stage
from dsrg.progress import tracked


def evaluate(stage: Stage) -> None:
    params, settings = stage.params, stage.params.evaluate
    classes = read_classes(stage.file["classes"])
    truth = read_ground_truth(stage.file["ground_truth"])
    index = with_ground_truth(read_index(stage.file["index"], classes).split("val"), truth)
    masks = [stage.data_root / truth[image_id].mask for image_id in index.ids]
    scores, shown = {}, {}
    for name, made_by in (("dsrg", "train_dsrg"), ("retrain", "retrain")):
        segmenter, model = load_segmenter(stage.file[name], made_by=made_by)
        jobs = prediction_jobs(
            segmenter,
            index,
            stage.data_root,
            size=model.size,
            scales=settings.scales,
            flip=settings.flip,
            merge=settings.merge,
            kernel=params.crf.test.model_dump(),
            tags_only=False,
            unsure_below=0,
        )
        scores[name] = Scores(classes)
        pairs = tracked(plain_and_refined(jobs), f"{stage.name} {name}", len(index))
        for row, (mask, (plain, refined)) in enumerate(zip(map(read_mask, masks), pairs, strict=True)):
            scores[name].add(mask, plain=plain, refined=refined)
            if row < settings.overlays:
                shown[name, row] = refined
    with whole_folder(stage.results / "overlays") as folder:
        for row in range(min(settings.overlays, len(index))):
            image = read_image(stage.data_root / index.paths[row])
            labels = {"truth": read_mask(masks[row]), "dsrg": shown["dsrg", row], "retrain": shown["retrain", row]}
            pictures = [(index.ids[row], image), *((name, overlay(image, drawn)) for name, drawn in labels.items())]
            write_picture(folder / f"{index.ids[row]}.png", panels(pictures))
    scores["retrain"].write_confusion(stage.results / "confusion.csv")
    write_per_class(stage.results / "per_class.csv", scores)
    write_json(stage.results / "metrics.json", {name: score.metrics() for name, score in scores.items()})


if __name__ == "__main__":
    run_stage(evaluate)
