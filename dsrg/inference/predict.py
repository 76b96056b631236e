"""From a trained segmenter to label maps at the image's own size (paper section 4.1; released `test-ms.py`)."""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dsrg import parallel
from dsrg.artifacts.model_file import Model, load_model
from dsrg.data.index import Index
from dsrg.inference.squares import image_batches, native, scaled_side, squares
from dsrg.method.label_maps import UNLABELLED
from dsrg.method.mean_field import Kernel, mean_field
from dsrg.networks.network import Segmenter
from dsrg.params import Predict


@torch.inference_mode()
def predict_probs(
    segmenter: Segmenter, images: list[NDArray[np.uint8]], settings: Predict, *, size: int
) -> Iterator[Tensor]:
    """Class probabilities of each image at its own size.

    Each image is seen at `settings.scales`: as squares of scale * size pixels (settings.shape "square", released
    `test-ms.py`), or at scale times its own size ("native", released `test-ms-f.py`). The logits are brought to the
    image's size (bilinear, aligned corners) and merged over scales and mirror images: "sum", as the released code (it
    sharpens), or "mean".

    Yields:
        float (C+1, H, W) an image, in order.
    """
    if settings.shape == "native":
        views = [[native(image, scale) for scale in settings.scales] for image in images]
        logits = [[_logits(segmenter, view, flip=settings.flip)[0] for view in own] for own in views]
    else:
        batches = [squares(images, scaled_side(size, scale)) for scale in settings.scales]
        logits = zip(*(_logits(segmenter, batch, flip=settings.flip) for batch in batches), strict=True)
    for image, own in zip(images, logits, strict=True):
        full = [F.interpolate(grid, image.shape[:2], mode="bilinear", align_corners=True).sum(dim=0) for grid in own]
        merged = torch.stack(full).sum(dim=0)
        if settings.merge == "mean":
            merged = merged / (len(settings.scales) * (1 + settings.flip))
        yield merged.softmax(dim=0)


def _logits(segmenter: Segmenter, batch: Tensor, *, flip: bool) -> Tensor:
    """Logits (B, 1, C+1, h, w) of images uint8 (B, 3, H, W); (B, 2, ...) with those of their mirror images."""
    batch = batch.to(next(segmenter.parameters()).device)
    views = [segmenter(batch), segmenter(batch.flip(3)).flip(3)] if flip else [segmenter(batch)]
    return torch.stack(views, dim=1)


class LabelJob(NamedTuple):
    """Work for `label_map`, light enough to be sent to another process.

    image uint8 (H, W, 3); probs float32 (K, H, W) of the classes `classes` uint8 (K,); kernel: params `crf.test`, or
    None for no CRF; pixels whose highest probability is below `unsure_below` become 255.
    """

    image: NDArray[np.uint8]
    probs: NDArray[np.float32]
    classes: NDArray[np.uint8]
    kernel: dict | None
    unsure_below: float


def label_map(job: LabelJob) -> NDArray[np.uint8]:
    """Label map uint8 (H, W): the most probable class, after the fully connected CRF if there is a kernel."""
    probs = job.probs
    if job.kernel is not None:
        kernel = dict(job.kernel)
        energies = -np.log(np.maximum(probs, kernel.pop("min_prob")))
        probs = mean_field((job.image.transpose(2, 0, 1), energies, Kernel(**kernel)))
    labels = job.classes[probs.argmax(axis=0)]
    if job.unsure_below > 0:
        labels = np.where(probs.max(axis=0) < job.unsure_below, UNLABELLED, labels)
    return labels.astype(np.uint8)


def label_maps(jobs: Iterable[LabelJob]) -> Iterator[NDArray[np.uint8]]:
    """`label_map` over processes while this one makes the next jobs; results in order."""
    return parallel.ordered_map(label_map, jobs)


def plain_and_refined(jobs: Iterable[LabelJob]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Each job's label map without and with its CRF."""
    plain: deque[NDArray[np.uint8]] = deque()

    def remembered() -> Iterator[LabelJob]:
        for job in jobs:
            plain.append(label_map(job._replace(kernel=None)))
            yield job

    for refined in label_maps(remembered()):
        yield plain.popleft(), refined


def load_segmenter(path: Path, *, made_by: str) -> tuple[Segmenter, Model]:
    """A segmenter ready to predict, on the GPU where there is one, and the file it comes from."""
    model = load_model(path, kind="segmenter", made_by=made_by)
    segmenter = Segmenter(classes=len(model.classes), **model.network)
    segmenter.load_state_dict(model.weights)
    return segmenter.eval().to("cuda" if torch.cuda.is_available() else "cpu"), model


def only_present(probs: Tensor, present: Tensor) -> tuple[Tensor, NDArray[np.uint8]]:
    """Probabilities (C+1, H, W) of the present classes (bool (C+1,)) alone, renormalised, and the classes' numbers."""
    # far below the best absent class every present one may have come out as 0
    kept = probs[present.to(probs.device)].clamp(min=torch.finfo(probs.dtype).tiny)
    return kept / kept.sum(dim=0, keepdim=True), np.flatnonzero(present.numpy()).astype(np.uint8)


def prediction_jobs(
    segmenter: Segmenter,
    index: Index,
    root: Path,
    settings: Predict,
    *,
    size: int,
    kernel: dict | None,
    tags_only: bool,
    unsure_below: float,
    batch: int = 8,
) -> Iterator[LabelJob]:
    """A LabelJob of every image of the index, in order. `tags_only`: among the image's tags and background alone."""
    for rows, images in image_batches(index, root, batch=batch):
        present = torch.from_numpy(index.present[rows])
        if not tags_only:
            present = torch.ones_like(present)
        all_probs = predict_probs(segmenter, images, settings, size=size)
        for image, tags, probs in zip(images, present, all_probs, strict=True):
            kept, numbers = only_present(probs, tags)
            yield LabelJob(image, kept.cpu().numpy(), numbers, kernel, unsure_below)
