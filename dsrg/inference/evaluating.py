"""A network on images that have masks: what the stage `evaluate` and the benchmarks report."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.data.images import read_mask
from dsrg.data.index import Index
from dsrg.inference.predict import plain_and_refined, prediction_jobs
from dsrg.inference.scoring import Scores
from dsrg.networks.network import Segmenter
from dsrg.params import Predict
from dsrg.progress import tracked


def evaluate_segmenter(
    segmenter: Segmenter,
    index: Index,
    root: Path,
    masks: list[Path],
    settings: Predict,
    *,
    classes: list[str],
    size: int,
    kernel: dict,
    keep: int = 0,
    title: str = "evaluate",
) -> tuple[Scores, list[NDArray[np.uint8]]]:
    """Scores over all images of the index without and with CRF, and the first `keep` label maps with it.

    masks: the ground truth's files, one an image. size: side of the training square, pixels. kernel: params `crf.test`.
    """
    scores, kept = Scores(classes), []
    jobs = prediction_jobs(segmenter, index, root, settings, size=size, kernel=kernel, tags_only=False, unsure_below=0)
    pairs = tracked(plain_and_refined(jobs), title, len(index))
    for mask, (plain, refined) in zip(map(read_mask, masks), pairs, strict=True):
        scores.add(mask, plain=plain, refined=refined)
        if len(kept) < keep:
            kept.append(refined)
    return scores, kept
