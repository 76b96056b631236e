"""Label every training image with the trained network, its tags and the fully connected CRF."""

from collections.abc import Iterator

from dsrg.artifacts.label_folder import write_checksums, write_label_maps
from dsrg.artifacts.shards import Item, kept
from dsrg.data.classes import read_classes
from dsrg.data.index import read_index
from dsrg.figures.overlays import write_label_overlays
from dsrg.files import whole_folder
from dsrg.inference.predict import load_segmenter, opinions, predictions
from dsrg.inference.squares import read_images
from dsrg.pipeline import Stage, run_stage
from dsrg.progress import tracked


def make_pseudo_labels(stage: Stage) -> None:
    params, pseudo = stage.params, stage.params.pseudo_labels
    classes = read_classes(stage.file["classes"])
    index = read_index(stage.file["index"], classes).split("train")
    segmenter, model = load_segmenter(stage.file["dsrg"], made_by="train_dsrg", classes=classes)
    kernel = params.crf.test.model_dump() if pseudo.crf else None

    def make(start: int) -> Iterator[Item]:
        rest = index.pick(range(start, len(index)))
        present = rest.present if pseudo.tags_only else None
        found = opinions(segmenter, read_images(rest, stage.data_root), present, pseudo, size=model.size)
        return ({"labels": one.labels} for one in predictions(found, kernel=kernel, unsure_below=pseudo.unsure_below))

    found = tracked(kept(make, stage.scratch, total=len(index)), stage.name, len(index))
    shown = []
    with whole_folder(stage.file["pseudo_labels"]) as folder:
        maps = ((image_id, item["labels"]) for image_id, item in zip(index.ids, found, strict=True))
        for labels in write_label_maps(folder, maps):
            if len(shown) < pseudo.overlays:
                shown.append(labels)
        write_checksums(folder)
    write_label_overlays(stage.results / "overlays", index, stage.data_root, {"pseudo label": shown})
    stage.finish()


if __name__ == "__main__":
    run_stage(make_pseudo_labels)
