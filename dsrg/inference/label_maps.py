"""Label maps of whole data sets, kept as PNGs while they are made, by several processes if there are."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dsrg.data.images import mask_from
from dsrg.data.index import Index
from dsrg.data.palette import label_png
from dsrg.inference.predict import Prediction, predictions
from dsrg.inference.preprocess import SHARD, read_images
from dsrg.params import CrfKernel, PseudoLabels
from dsrg.runtime.launcher import WorkShard
from dsrg.runtime.resumable import Item, resumable_rows
from dsrg.runtime.workers import threaded_map


class Labeled(NamedTuple):
    """A prediction's label maps as PNGs: with CRF and unsure pixels, and, if kept, the network alone."""

    png: bytes
    network_png: bytes

    @property
    def labels(self) -> NDArray[np.uint8]:
        """The label map, uint8 (H, W)."""
        return mask_from(self.png, "label map")

    @property
    def network_labels(self) -> NDArray[np.uint8]:
        """The one without CRF, uint8 (H, W)."""
        return mask_from(self.network_png, "label map")


def predicted_labels(
    segmenter: nn.Module, index: Index, settings: PseudoLabels, *, size: int, kernel: CrfKernel
) -> Iterator[Prediction]:
    """Predictions of the images of an index as params `pseudo_labels` ask for them, in order.

    size: side of the training square, pixels. kernel: params `crf.test`.
    """
    present = index.present if settings.tags_only else None
    wanted = {"size": size, "kernel": kernel if settings.crf else None, "unsure_below": settings.unsure_below}
    return predictions(segmenter, read_images(index), present, settings, **wanted)


def resumable_labels(
    predict: Callable[[NDArray[np.int64]], Iterable[Prediction]], share: WorkShard, *, total: int, network: bool = False
) -> Iterator[Labeled]:
    """Label maps of the images 0..total-1, in order, those kept ones not predicted again, see `resumable_rows`.

    predict: predictions of the images of the given rows. Threads make PNGs of them, while the next ones are made.
    """

    def item(one: Prediction) -> Item:
        found = {"labels": one.labels} | ({"network_labels": one.network_labels} if network else {})
        return {name: np.frombuffer(label_png(labels), np.uint8) for name, labels in found.items()}

    def make(rows: NDArray[np.int64]) -> Iterator[Item]:
        return threaded_map(item, predict(rows))

    for found in resumable_rows(make, share, total=total, shard=SHARD):
        yield Labeled(found["labels"].tobytes(), found["network_labels"].tobytes() if network else b"")
