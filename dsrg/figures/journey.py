"""One image's whole way through the pipeline, in one picture."""

from pathlib import Path

from dsrg.artifacts.growth import read_growth
from dsrg.artifacts.label_folder import LabelFolder
from dsrg.artifacts.seeds_h5 import read_seeds
from dsrg.data.images import limit_side
from dsrg.data.index import read_ground_truth
from dsrg.errors import InputError
from dsrg.figures.overlays import SIDE, growth_pictures, overlay, panels, seed_pictures, stacked, write_picture
from dsrg.inference.predict import load_segmenter, predictions
from dsrg.project import Project


def draw_journey(image_id: str, out: Path, project: Project) -> None:
    """Two rows: image, activation maps, saliency, seeds; then growth, pseudo label, prediction, ground truth.

    Evaluation images have only prediction and ground truth. Raises InputError for an unknown id or missing files.
    """
    paths, params = project.paths, project.params
    classes = project.classes
    index = project.index()
    if image_id not in index.ids:
        raise InputError(f"{image_id}: no such image in {paths.index}")
    row = index.ids.index(image_id)
    whole = index.image(row)
    image = limit_side(whole, SIDE)

    segmenter, model = load_segmenter(paths.retrain, stage_name="retrain")
    wanted = {"size": model.size, "kernel": params.crf.test}
    ((labels, *_),) = predictions(segmenter, [whole], None, params.evaluate, **wanted)
    results = [("prediction", overlay(image, labels))]
    truth = read_ground_truth(paths.ground_truth)
    if image_id in truth:
        results.append(("ground truth", overlay(image, truth[image_id].labels(paths.masks))))
    rows = [[(image_id, image), *results]]
    if index.splits[row] == "train":
        seeds = read_seeds(paths.seeds, classes=classes)
        labels, (saliency, cams) = seeds.in_order([image_id])[0], seeds.maps(image_id)
        first = seed_pictures(image, cams=cams, saliency=saliency, seeds=labels, classes=classes)
        growth = growth_pictures(image, seeds=labels, grown=read_growth(paths.growth, image_id))[1:]
        (pseudo,) = LabelFolder(paths.pseudo_labels, [image_id], stage_name="make_pseudo_labels")
        rows = [first, [*growth, ("pseudo label", overlay(image, pseudo)), *results]]
    write_picture(out, stacked([panels(row, height=200) for row in rows]))
