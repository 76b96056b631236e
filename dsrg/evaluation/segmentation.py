"""A network on images that have masks: what the stage `evaluate` and the benchmarks report."""

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dsrg.data.index import Index
from dsrg.evaluation.scores import Scores, best_and_worst
from dsrg.inference.label_maps import resumable_labels
from dsrg.inference.predict import Prediction, predictions
from dsrg.inference.preprocess import read_images
from dsrg.networks.network import DeepLab
from dsrg.params import CrfKernel, PredictParams
from dsrg.runtime.launcher import WorkShard
from dsrg.runtime.progress import tracked


def evaluate_segmenter(
    segmenter: DeepLab,
    index: Index,
    masks: Iterable[NDArray[np.uint8]],
    settings: PredictParams,
    *,
    classes: list[str],
    size: int,
    kernel: CrfKernel,
    keep: int = 0,
    ends: int = 0,
    title: str = "evaluate",
    share: WorkShard | None = None,
) -> tuple[Scores, dict[int, NDArray[np.uint8]]]:
    """Scores over all images of the index without and with CRF, and some label maps with it, by the image's row.

    These are the first `keep` images', and those of the `ends` best and worst, see `best_and_worst`.
    masks: ground truth, uint8 (H, W) an image. size: side of the training square, pixels. kernel: params `crf.test`.
    share: where label maps are kept until all are there, and what of them is this process's to make; only the first
    one's scores are of all images.
    """
    scores, kept, extreme = Scores(classes), {}, {}

    def predict(rows: NDArray[np.int64]) -> Iterable[Prediction]:
        images = read_images(index.pick(rows))
        return predictions(segmenter, images, None, settings, size=size, kernel=kernel)

    if share is None:
        found = predict(np.arange(len(index)))
    else:
        found = resumable_labels(predict, share, total=len(index), network=True)
        if not share.is_rank_zero:
            deque(found, maxlen=0)
            return scores, {}
    for row, (mask, one) in enumerate(zip(masks, tracked(found, title, len(index)), strict=True)):
        labels = one.labels
        scores.add(mask, labels=one.network_labels, labels_crf=labels)
        if row < keep:
            kept[row] = labels
        extreme[row] = labels
        extreme = {row: extreme[row] for row in best_and_worst({row: scores.images[row] for row in extreme}, ends)}
    return scores, kept | extreme
