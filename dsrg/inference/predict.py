"""From a trained segmenter to label maps at the image's own size (paper section 4.1; released `test-ms.py`)."""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial, reduce
from itertools import chain, islice, repeat
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dsrg.artifacts.model_file import Model, built, load_model
from dsrg.data.images import SizedImage, limit_side
from dsrg.inference.preprocess import BATCH, resize_native, scaled_side, warp_to_square
from dsrg.method.crf import dense_crf, engine_on, unary_energies
from dsrg.method.crf_pydensecrf import Kernel, mean_field
from dsrg.method.grid import UNLABELED
from dsrg.method.pooling import pooled_scores
from dsrg.networks.network import DeepLab
from dsrg.params import CrfKernel, PredictParams
from dsrg.runtime import workers


class ImageLogits(NamedTuple):
    """What a network makes of an image uint8 (h, w, 3): scores of the classes in question.

    present: bool (C+1,), which K classes these are. scores: float (K, h, w), or before they are merged those on the
    grid of each scale. shape: (H, W) of the whole image, of which this may be a small one.
    """

    image: NDArray[np.uint8]
    present: NDArray[np.bool_]
    scores: Tensor | list[Tensor]
    shape: tuple[int, int]


class Prediction(NamedTuple):
    """labels uint8 (H, W), a label map; network_labels, the same by the network alone: without CRF, no pixel unsure.

    probs: float32 (C+1, h, w) of the size worked on or, if not asked for, None; after the CRF if there is one, 0 for
    classes out of question.
    """

    labels: NDArray[np.uint8]
    network_labels: NDArray[np.uint8]
    probs: NDArray[np.float32] | None


def load_segmenter(path: Path, *, stage_name: str, classes: list[str] | None = None) -> tuple[DeepLab, Model]:
    """A segmenter ready to predict, on the GPU where there is one, and the file it comes from; see `load_model`."""
    model = load_model(path, kind="segmenter", stage_name=stage_name, classes=classes)
    segmenter = built(DeepLab, model, path=path, stage_name=stage_name)
    return segmenter.eval().to("cuda" if torch.cuda.is_available() else "cpu"), model


@torch.inference_mode()
def multiscale_logits(
    segmenter: nn.Module, images: list[NDArray[np.uint8]], settings: PredictParams, *, size: int
) -> Iterator[list[Tensor]]:
    """Each image's logits on the network's grid, float (C+1, h, w) a scale, in order.

    Each image is seen at `settings.scales`: as squares of scale * size pixels (settings.shape "square", released
    `test-ms.py`), or at scale times its own size ("native", released `test-ms-f.py`). Those of the mirror images are
    added if asked for.
    """
    if settings.shape == "native":
        views = ([resize_native(image, scale) for scale in settings.scales] for image in images)
        yield from ([_grid(segmenter, view, flip=settings.flip)[0] for view in own] for own in views)
    else:
        batches = (warp_to_square(images, scaled_side(size, scale)) for scale in settings.scales)
        yield from map(list, zip(*[_grid(segmenter, batch, flip=settings.flip) for batch in batches], strict=True))


@torch.inference_mode()
def merge_scales(grids: list[Tensor], shape: tuple[int, int], settings: PredictParams) -> Tensor:
    """Logits float (K, H, W) of an image of this shape, from those on the grids (K, h, w) of its scales.

    They are brought to the image's size (bilinear, aligned corners) and merged over scales and mirror images: "sum", as
    the released code (it sharpens), or "mean"; then the `image_prior` is added, if there is one.
    """
    # many classes are interpolated twice as fast with those of a pixel side by side
    layout = torch.channels_last if len(grids[0]) >= 8 else torch.contiguous_format
    laid = (grid[None].contiguous(memory_format=layout) for grid in grids)
    full = (F.interpolate(grid, shape, mode="bilinear", align_corners=True)[0] for grid in laid)
    merged = reduce(Tensor.add_, full)  # in place: these are large
    merged = merged / (len(grids) * (1 + settings.flip)) if settings.merge == "mean" else merged
    if settings.pooled_prior is None:
        return merged
    return merged + image_prior(merged, sharpness=settings.pooled_prior)[:, None, None]


def image_prior(scores: Tensor, *, sharpness: float) -> Tensor:
    """Log probability that the image shows each class, float (K,), of its logits (K, H, W).

    The softmax of the pooled logits. Added to the logits it multiplies the pixels' probabilities by it, so that classes
    of which the image shows little vanish (Pinheiro & Collobert 2015, equation 7).
    """
    return pooled_scores(scores, sharpness=sharpness).log_softmax(dim=0)


@torch.inference_mode()
def merged_labels(grids: list[Tensor], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The class of the highest merged score, uint8 (H, W), of the grids (K, h, w): `merge_scales` and its argmax.

    Between the cells of all grids taken together the merged scores are bilinear. So a class that is the highest at the
    four corners of such a rectangle is so within it, and scores are computed only where classes meet. Those that are
    nowhere ahead of one and the same other class are left out.
    """
    sides = [_Side(pixels, [grid.shape[axis] for grid in grids]) for axis, pixels in zip((1, 2), shape, strict=True)]
    corners = sum(
        rows @ grid.float().cpu() @ columns.T
        for grid, rows, columns in zip(grids, *(side.weights for side in sides), strict=True)
    )
    leader = corners.mean(dim=(1, 2)).argmax()
    classes = (~(corners < corners[leader])).flatten(1).any(dim=1).nonzero()[:, 0]  # NaN rules nothing out
    corners = corners[classes]
    best = corners.argmax(dim=0).to(torch.uint8).numpy()
    first = best[:-1, :-1]
    meet = (first != best[1:, :-1]) | (first != best[:-1, 1:]) | (first != best[1:, 1:])
    (y, down), (x, right) = ((side.before, side.beyond) for side in sides)
    labels, unsure = (np.take(np.take(cells, x, axis=1), y, axis=0) for cells in (first, meet))
    at = np.flatnonzero(unsure)
    if len(at):
        row, column = np.divmod(at, shape[1])
        width, down, right = best.shape[1], down[row], right[column]
        indices = (y[row] * width + x[column])[:, None] + np.array([0, 1, width, width + 1])
        weights = np.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], axis=1)
        table, places = corners.flatten(1).T.contiguous(), torch.from_numpy(indices)
        scores = F.embedding_bag(places, table, mode="sum", per_sample_weights=torch.from_numpy(weights))
        labels.flat[at] = scores.argmax(dim=1).to(torch.uint8).numpy()
    return classes.to(torch.uint8).numpy()[labels]


class _Side:
    """One side of an image, cut where any of some grids has a cell; its first and last pixel are the outermost cells.

    weights: float (cuts, cells) for each grid, linear interpolation. before, beyond: for each pixel the cut at or
    before it, and how far it is from there to the next one, float 0..1.
    """

    def __init__(self, pixels: int, cells: list[int]) -> None:
        cuts = np.unique(np.concatenate([[0.0, 1.0], *(np.linspace(0, 1, count) for count in cells)]).round(9))
        distances = (np.abs(cuts[:, None] * (count - 1) - np.arange(count)) for count in cells)
        self.weights = [torch.from_numpy(np.maximum(0, 1 - distance).astype(np.float32)) for distance in distances]
        places = np.linspace(0, 1, pixels)
        self.before = np.searchsorted(cuts[1:-1], places, side="right")
        start, end = cuts[self.before], cuts[self.before + 1]
        self.beyond = ((places - start) / (end - start)).astype(np.float32)


def _grid(segmenter: nn.Module, batch: Tensor, *, flip: bool) -> Tensor:
    """Logits (B, C+1, h, w) of images uint8 (B, 3, H, W), with `flip` those of their mirror images added."""
    batch = batch.to(next(segmenter.parameters()).device)
    return segmenter(batch) + segmenter(batch.flip(3)).flip(3) if flip else segmenter(batch)


def predict_logits(
    segmenter: nn.Module,
    images: Iterable[NDArray[np.uint8] | SizedImage],
    present: NDArray[np.bool_] | None,
    settings: PredictParams,
    *,
    size: int,
    batch: int = BATCH,
    merged: bool = True,
) -> Iterator[ImageLogits]:
    """What the network says of any number of images, `batch` of which are in it at once, in order.

    present: bool (N, C+1), the classes in question, such as each image's tags and background; None = all. An image
    whose longer side is more than `settings.max_side` is worked on scaled down to it. A thread takes the next images
    out of `images`, one at a time, while the network works.
    """
    rows = repeat(None) if present is None else iter(present)
    sized = workers.ahead((_sized(image, settings.max_side) for image in images), most=batch)
    while taken := list(islice(sized, batch)):
        found = multiscale_logits(segmenter, [one.pixels for one in taken], settings, size=size)
        for (image, shape), grids in zip(taken, found, strict=True):
            known = next(rows)
            known = np.ones(len(grids[0]), bool) if known is None else known
            scores = [grid[np.flatnonzero(known).tolist()] for grid in grids]
            yield ImageLogits(
                image, known, merge_scales(scores, image.shape[:2], settings) if merged else scores, shape
            )


def _sized(image: NDArray[np.uint8] | SizedImage, max_side: int) -> SizedImage:
    pixels, shape = image if isinstance(image, SizedImage) else (image, image.shape[:2])
    return SizedImage(limit_side(pixels, max_side, shape), shape)


def predictions(
    segmenter: nn.Module,
    images: Iterable[NDArray[np.uint8] | SizedImage],
    present: NDArray[np.bool_] | None,
    settings: PredictParams,
    *,
    size: int,
    kernel: CrfKernel | None,
    batch: int = BATCH,
    unsure_below: float = 0.0,
    probabilities: bool = False,
) -> Iterator[Prediction]:
    """What the scores of any number of images come to, see `predict_logits` and `postprocess`; in order."""
    labels_alone = kernel is None and settings.pooled_prior is None and not unsure_below and not probabilities
    found = predict_logits(segmenter, images, present, settings, size=size, batch=batch, merged=not labels_alone)
    if labels_alone:
        return map(_labels_alone, found)
    return postprocess(found, kernel=kernel, unsure_below=unsure_below, probabilities=probabilities)


def _labels_alone(found: ImageLogits) -> Prediction:
    rows = merged_labels(found.scores, found.image.shape[:2])
    labels = enlarged(np.flatnonzero(found.present).astype(np.uint8)[rows], found.shape)
    return Prediction(labels, labels, None)


def postprocess(
    found: Iterable[ImageLogits], *, kernel: CrfKernel | None, unsure_below: float = 0.0, probabilities: bool = False
) -> Iterator[Prediction]:
    """The most probable of the classes in question at each pixel, after the fully connected CRF if there is a kernel.

    kernel: params `crf.test`; pixels whose highest probability is below `unsure_below` become 255. The CRF runs on the
    GPU if the scores are there, else over processes, while this one makes the next logits. Results are in order.
    """
    if kernel is None:
        for _, present, scores, shape in found:
            network_labels = labels = enlarged(_most_likely(present, scores)[0], shape)
            probs = None
            if unsure_below or probabilities:  # the highest score needs no softmax, and takes a third of the time
                labels, probs = _labels(present, scores.softmax(dim=0), unsure_below, probabilities)
            yield Prediction(enlarged(labels, shape), network_labels, probs)
        return

    found = iter(found)
    first = list(islice(found, 1))
    on_gpu = any(engine_on(one.scores.device) == "lattice" for one in first)
    waiting: deque[NDArray[np.uint8]] = deque()

    def jobs() -> Iterator[_CrfJob]:
        for image, present, scores, shape in chain(first, found):
            waiting.append(enlarged(_most_likely(present, scores)[0], shape))
            energies = unary_energies(scores.softmax(dim=0), unary="logp", min_prob=kernel.min_prob)
            yield image, present, energies if on_gpu else energies.numpy()

    after_crf = partial(
        _after_crf, kernel=Kernel(**kernel.kernel), unsure_below=unsure_below, probabilities=probabilities
    )
    for labels, probs in (map if on_gpu else workers.ordered_map)(after_crf, jobs()):
        network_labels = waiting.popleft()
        yield Prediction(enlarged(labels, network_labels.shape), network_labels, probs)


# an image, its classes and energies (K, H, W): an array is light enough for another process, a tensor stays in this one
_CrfJob = tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float32] | Tensor]


def _after_crf(
    job: _CrfJob, *, kernel: Kernel, unsure_below: float, probabilities: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    image, present, energies = job
    image = image.transpose(2, 0, 1)
    if isinstance(energies, Tensor):
        pixels = torch.from_numpy(image.copy()).to(energies.device)
        probs = dense_crf(pixels[None], energies[None], **vars(kernel))[0]
    else:
        probs = torch.from_numpy(mean_field(image, energies, kernel))
    return _labels(present, probs, unsure_below, probabilities)


def _labels(
    present: NDArray[np.bool_], probs: Tensor, unsure_below: float, probabilities: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Label map (H, W) of the probabilities (K, H, W) of the present classes, and those of all classes if wanted."""
    labels, highest = _most_likely(present, probs)
    labels = np.where(highest < unsure_below, np.uint8(UNLABELED), labels)
    if not probabilities:
        return labels, None
    full = np.zeros((len(present), *labels.shape), np.float32)
    full[present] = probs.float().cpu().numpy()
    return labels, full


def _most_likely(present: NDArray[np.bool_], values: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The class of the highest of the values (K, H, W) at each pixel, and that value, both (H, W)."""
    highest, rows = values.max(dim=0)  # many times faster than argmax
    return np.flatnonzero(present).astype(np.uint8)[rows.cpu().numpy()], highest.cpu().numpy()


def enlarged(labels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A label map (h, w) brought to (H, W), nearest."""
    if labels.shape == tuple(shape):
        return labels
    return cv2.resize(labels, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
