"""A network on images that have masks: what the stage `evaluate` and the benchmarks report."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.data.index import Index
from dsrg.inference.predict import opinions, predictions
from dsrg.inference.scoring import Scores, best_and_worst
from dsrg.inference.squares import read_images
from dsrg.networks.network import Segmenter
from dsrg.params import Predict
from dsrg.progress import tracked


def evaluate_segmenter(
    segmenter: Segmenter,
    index: Index,
    root: Path,
    masks: Iterable[NDArray[np.uint8]],
    settings: Predict,
    *,
    classes: list[str],
    size: int,
    kernel: dict,
    keep: int = 0,
    ends: int = 0,
    title: str = "evaluate",
) -> tuple[Scores, dict[int, NDArray[np.uint8]]]:
    """Scores over all images of the index without and with CRF, and some label maps with it, by the image's row.

    These are the first `keep` images', and those of the `ends` best and worst, see `best_and_worst`.
    masks: ground truth, uint8 (H, W) an image. size: side of the training square, pixels. kernel: params `crf.test`.
    """
    scores, kept, extreme = Scores(classes), {}, {}
    found = predictions(opinions(segmenter, read_images(index, root), None, settings, size=size), kernel=kernel)
    for row, (mask, one) in enumerate(zip(masks, tracked(found, title, len(index)), strict=True)):
        scores.add(mask, plain=one.plain, refined=one.labels)
        if row < keep:
            kept[row] = one.labels
        extreme[row] = one.labels
        extreme = {row: extreme[row] for row in best_and_worst({row: scores.images[row] for row in extreme}, ends)}
    return scores, kept | extreme
