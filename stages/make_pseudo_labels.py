"""Label every training image with the trained network, its tags and the fully connected CRF."""

from collections import deque
from collections.abc import Iterator

from numpy.typing import NDArray

from dsrg.artifacts.label_folder import written_labels
from dsrg.artifacts.seeds_h5 import read_seeds
from dsrg.figures.overlays import write_label_overlays
from dsrg.inference.label_maps import predicted_labels, resumable_labels
from dsrg.inference.predict import Prediction, load_segmenter
from dsrg.runtime.distributed import shard_work
from dsrg.runtime.progress import tracked
from dsrg.stage import Stage, run_stage


def make_pseudo_labels(stage: Stage) -> None:
    params, pseudo = stage.params, stage.params.pseudo_labels
    classes = stage.classes
    index = read_seeds(stage.paths.seeds, classes=classes).with_tags(stage.project.index().split("train"))
    share = shard_work(stage.topology, stage.scratch)
    segmenter, model = load_segmenter(stage.paths.dsrg, stage_name="train_dsrg", classes=classes)

    def predict(rows: NDArray) -> Iterator[Prediction]:
        return predicted_labels(segmenter, index.pick(rows), pseudo, size=model.size, kernel=params.crf.test)

    found = resumable_labels(predict, share, total=len(index))
    if not share.is_rank_zero:
        deque(found, maxlen=0)
        return
    shown = []
    with written_labels(stage.paths.pseudo_labels, format=pseudo.format) as add:
        for image_id, one in zip(index.ids, tracked(found, stage.name, len(index)), strict=True):
            add(image_id, one.png)
            if len(shown) < pseudo.overlays:
                shown.append(one.labels)
    write_label_overlays(stage.results / "overlays", index, {"pseudo label": shown})
    stage.discard_scratch()


if __name__ == "__main__":
    run_stage(make_pseudo_labels, together=True)
