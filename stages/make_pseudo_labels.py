"""Label every training image with the trained network, its tags and the fully connected CRF."""

from collections import deque
from collections.abc import Iterator

from numpy.typing import NDArray

from dsrg.artifacts.label_folder import written_labels
from dsrg.data.classes import read_classes
from dsrg.data.index import read_index
from dsrg.figures.overlays import write_label_overlays
from dsrg.inference.labelling import kept_labels
from dsrg.inference.predict import Prediction, load_segmenter, opinions, predictions
from dsrg.inference.squares import read_images
from dsrg.pipeline import Stage, run_stage
from dsrg.processes import deal
from dsrg.progress import tracked


def make_pseudo_labels(stage: Stage) -> None:
    params, pseudo = stage.params, stage.params.pseudo_labels
    classes = read_classes(stage.file["classes"])
    index = read_index(stage.file["index"], classes).split("train")
    share = deal(stage.topology, stage.scratch)
    segmenter, model = load_segmenter(stage.file["dsrg"], made_by="train_dsrg", classes=classes)
    kernel = params.crf.test.model_dump() if pseudo.crf else None

    def predict(rows: NDArray) -> Iterator[Prediction]:
        some = index.pick(rows)
        present = some.present if pseudo.tags_only else None
        found = opinions(segmenter, read_images(some, stage.data_root), present, pseudo, size=model.size)
        return predictions(found, kernel=kernel, unsure_below=pseudo.unsure_below)

    found = kept_labels(predict, share, total=len(index))
    if not share.first:
        deque(found, maxlen=0)
        return
    shown = []
    with written_labels(stage.file["pseudo_labels"], format=pseudo.format) as add:
        for image_id, one in zip(index.ids, tracked(found, stage.name, len(index)), strict=True):
            add(image_id, one.png)
            if len(shown) < pseudo.overlays:
                shown.append(one.labels)
    write_label_overlays(stage.results / "overlays", index, stage.data_root, {"pseudo label": shown})
    stage.finish()


if __name__ == "__main__":
    run_stage(make_pseudo_labels, together=True)
