"""Label every training image with the trained network, its tags and the fully connected CRF."""

from dsrg.data.classes import read_classes
from dsrg.data.images import read_image
from dsrg.data.index import read_index
from dsrg.data.palette import label_png
from dsrg.figures.overlays import labels_beside, write_picture
from dsrg.files import whole_folder
from dsrg.inference.predict import load_segmenter, opinions, predictions
from dsrg.inference.squares import read_images
from dsrg.pipeline import Stage, run_stage
from dsrg.progress import tracked


def make_pseudo_labels(stage: Stage) -> None:
    params, pseudo = stage.params, stage.params.pseudo_labels
    classes = read_classes(stage.file["classes"])
    index = read_index(stage.file["index"], classes).split("train")
    segmenter, model = load_segmenter(stage.file["dsrg"], made_by="train_dsrg")
    present = index.present if pseudo.tags_only else None
    found = opinions(segmenter, read_images(index, stage.data_root), present, pseudo, size=model.size)
    kernel = params.crf.test.model_dump() if pseudo.crf else None
    found = tracked(predictions(found, kernel=kernel, unsure_below=pseudo.unsure_below), stage.name, len(index))
    with whole_folder(stage.file["pseudo_labels"]) as folder, whole_folder(stage.results / "overlays") as overlays:
        for row, (image_id, (label_map, *_)) in enumerate(zip(index.ids, found, strict=True)):
            (folder / f"{image_id}.png").write_bytes(label_png(label_map))
            if row < pseudo.overlays:
                image = read_image(stage.data_root / index.paths[row])
                pictures = labels_beside(image_id, image, {"pseudo label": label_map})
                write_picture(overlays / f"{image_id}.png", pictures)


if __name__ == "__main__":
    run_stage(make_pseudo_labels)
