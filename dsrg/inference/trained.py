"""A trained network for pictures of one's own: a path or an array in, a label map of its size out. No params.yaml."""

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dsrg import parallel
from dsrg.artifacts.model_file import Model
from dsrg.data.check import tag_faults
from dsrg.data.images import check_image, read_image
from dsrg.data.index import present_from_tags
from dsrg.errors import InputError
from dsrg.inference.predict import load_segmenter
from dsrg.inference.squares import native, scaled_side, squares
from dsrg.method.crf import dense_crf, engine_on, unary_energies
from dsrg.method.label_maps import UNLABELLED
from dsrg.method.mean_field import Kernel, mean_field
from dsrg.params import CrfKernel, Predict

# Released `test-ms.py`, as recipes/voc2012-vgg16.yaml has it.
RELEASED = Predict(shape="square", scales=[0.75, 1.0, 1.25], flip=False, merge="sum")
RELEASED_CRF = CrfKernel(
    gaussian_weight=3.0,
    gaussian_xy=3.0,
    bilateral_weight=10.0,
    bilateral_xy=80.0,
    bilateral_rgb=13.0,
    iterations=10,
    min_prob=1e-5,
)
MAX_SIDE = 1024  # pixels; twice VOC's
PIXELS_MAX = 100_000_000  # as in the recipes


class Prediction(NamedTuple):
    """labels uint8 (h, w), a label map; probs float32 (C+1, h, w), 0 where a class is out of question, if asked for."""

    labels: NDArray[np.uint8]
    probs: NDArray[np.float32] | None


class Segmenter:
    """A trained network with its classes.

    >>> import dsrg
    >>> segmenter = dsrg.Segmenter.load("data/retrain.pt")
    >>> segmenter.classes
    ['cat', 'dog']
    >>> labels = segmenter.predict("rex.jpg")
    >>> labels.shape, labels.dtype
    ((48, 64), dtype('uint8'))
    >>> labels, probs = segmenter.predict("rex.jpg", tags=["dog"], crf=True, probabilities=True)
    >>> probs.shape, float(probs[1].max())  # it is known that there is no cat
    ((3, 48, 64), 0.0)
    """

    def __init__(self, network: nn.Module, model: Model) -> None:
        self.network, self.model = network, model

    @classmethod
    def load(cls, path: str | Path, *, device: str | None = None) -> "Segmenter":
        """Read a model file (data/retrain.pt, data/dsrg.pt). `device`: "cpu" or "cuda"; None = a GPU if there is one.

        Raises InputError if it is no model file, or there is no such device.
        """
        if device not in (None, "cpu", "cuda"):
            raise InputError(f"device {device!r}: expected cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("device cuda: torch sees no GPU here; use the CPU")
        try:
            network, model = load_segmenter(Path(path), made_by="retrain")
        except (RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: its weights do not fit its network ({reason}); train it again") from None
        return cls(network.to(device) if device else network, model)

    @property
    def classes(self) -> list[str]:
        """Names of the classes 1..C; 0 is background."""
        return self.model.classes

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def predict(
        self,
        image: str | Path | NDArray[np.uint8],
        *,
        tags: Iterable[str] | None = None,
        crf: bool = False,
        probabilities: bool = False,
        settings: Predict = RELEASED,
        kernel: CrfKernel = RELEASED_CRF,
        unsure_below: float = 0.0,
        max_side: int = MAX_SIDE,
    ) -> NDArray[np.uint8] | tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Label map uint8 (H, W) of an image: 0 background, 1..C `classes`, 255 where nothing reaches `unsure_below`.

        Args:
            image: the path of a JPEG, PNG, WebP or TIFF (turned as its EXIF orientation says), or uint8 (H, W, 3) RGB.
            tags: names of the classes that may be in it, besides background; None = all.
            crf: follow the image's edges with the fully connected CRF `kernel`.
            probabilities: return (labels, probs float32 (C+1, h, w)), the CRF's if there is one.
            settings: scales, mirror images and how they are merged.
            max_side: a larger image is scaled down to this longer side for all of the work, and its label map enlarged
                again (nearest). (h, w) is the size worked on, (H, W) otherwise.

        Raises:
            InputError: for an image that cannot be read, or tags that are no classes.
        """
        if not isinstance(image, np.ndarray):
            check_image(image, pixels_max=PIXELS_MAX)
            image = read_image(image)
        elif image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise InputError(f"an image {image.dtype} {image.shape}; expected uint8 (height, width, 3), RGB")
        if tags is not None and (faults := tag_faults([("", "tags", tags := list(tags))], self.classes)):
            raise InputError(fault.problem for fault in faults)
        (found,) = self.predictions(
            [shrunk(image, max_side)],
            None if tags is None else present_from_tags([tags], self.classes),
            settings=settings,
            kernel=kernel if crf else None,
            probabilities=probabilities,
            unsure_below=unsure_below,
        )
        labels = enlarged(found.labels, image.shape[:2])
        return (labels, found.probs) if probabilities else labels

    def predictions(
        self,
        images: Iterable[NDArray[np.uint8]],
        present: NDArray[np.bool_] | None,
        *,
        settings: Predict,
        kernel: CrfKernel | None,
        probabilities: bool,
        unsure_below: float,
        batch: int = 1,
    ) -> Iterator[Prediction]:
        """Each image's prediction at its own size, in order.

        images: uint8 (h, w, 3) of any sizes, `batch` of which are in the network at once; present: bool (N, C+1), the
        classes in question, None = all; kernel: of the CRF, None = without.
        """
        found = self._scores(images, present, settings=settings, batch=batch)
        if kernel is None and unsure_below == 0 and not probabilities:
            yield from (Prediction(_best(numbers, scores)[0], None) for _, numbers, scores in found)
            return
        found = (known._replace(values=known.values.softmax(dim=0)) for known in found)
        if kernel is not None:
            found = self._refined(found, kernel.model_dump())
        for _, numbers, probs in found:
            labels, highest = _best(numbers, probs)
            labels = np.where(highest < unsure_below, np.uint8(UNLABELLED), labels)
            yield Prediction(labels, _of_all_classes(numbers, probs, len(self.classes)) if probabilities else None)

    def _scores(
        self, images: Iterable[NDArray[np.uint8]], present: NDArray[np.bool_] | None, *, settings: Predict, batch: int
    ) -> Iterator["_Known"]:
        images, row = iter(images), 0
        everything = np.ones(len(self.classes) + 1, bool)
        while group := list(islice(images, batch)):
            scores = class_scores(self.network, group, settings, size=self.model.size)
            for image, values in zip(group, scores, strict=True):
                allowed = everything if present is None else present[row]
                numbers = np.flatnonzero(allowed).astype(np.uint8)
                yield _Known(image, numbers, values if allowed.all() else values[numbers.tolist()])
                row += 1

    def _refined(self, found: Iterable["_Known"], kernel: dict) -> Iterator["_Known"]:
        """Probabilities after the CRF: on the GPU one image after the other, on the CPU over processes."""
        min_prob = kernel.pop("min_prob")
        energies = (
            known._replace(values=unary_energies(known.values, unary="logp", min_prob=min_prob)) for known in found
        )
        if engine_on(self.device) == "lattice":
            for image, numbers, values in energies:
                pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].to(self.device)
                yield _Known(image, numbers, dense_crf(pixels, values[None], **kernel)[0])
            return
        jobs = ((image, numbers, values.numpy(), kernel) for image, numbers, values in energies)
        for image, numbers, probs in parallel.ordered_map(_mean_field, jobs):
            yield _Known(image, numbers, torch.from_numpy(probs))


class _Known(NamedTuple):
    """image uint8 (h, w, 3); what is known of the classes `numbers` uint8 (K,) in it: values float (K, h, w)."""

    image: NDArray[np.uint8]
    numbers: NDArray[np.uint8]
    values: Tensor


@torch.inference_mode()
def class_scores(
    network: nn.Module, images: list[NDArray[np.uint8]], settings: Predict, *, size: int
) -> Iterator[Tensor]:
    """Logits float (C+1, H, W) of each image at its own size, merged over scales and mirror images, in order.

    Their softmax is `predict_probs`; the most probable class needs none, and takes a third of the time.
    """
    if settings.shape == "native":
        views = ([native(image, scale) for scale in settings.scales] for image in images)
        grids = ([_grid(network, view, flip=settings.flip) for view in own] for own in views)
    else:
        batches = (squares(images, scaled_side(size, scale)) for scale in settings.scales)
        grids = zip(*[_grid(network, batch, flip=settings.flip).split(1) for batch in batches], strict=True)
    for image, own in zip(images, grids, strict=True):
        full = (F.interpolate(grid, image.shape[:2], mode="bilinear", align_corners=True)[0] for grid in own)
        merged = reduce(Tensor.add_, full)  # in place: these are large
        yield merged / (len(settings.scales) * (1 + settings.flip)) if settings.merge == "mean" else merged


def _grid(network: nn.Module, batch: Tensor, *, flip: bool) -> Tensor:
    """Logits (B, C+1, h, w) of images uint8 (B, 3, H, W), with `flip` those of their mirror images added."""
    batch = batch.to(next(network.parameters()).device)
    return network(batch) + network(batch.flip(3)).flip(3) if flip else network(batch)


def _mean_field(job: tuple) -> tuple:
    image, numbers, energies, kernel = job
    return image, numbers, mean_field((image.transpose(2, 0, 1), energies, Kernel(**kernel)))


def _best(numbers: NDArray[np.uint8], values: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The class of the highest value at each pixel, and that value, both (h, w)."""
    highest, rows = values.max(dim=0)  # many times faster than argmax
    return numbers[rows.to(torch.uint8).cpu().numpy()], highest.cpu().numpy()


def _of_all_classes(numbers: NDArray[np.uint8], probs: Tensor, classes: int) -> NDArray[np.float32]:
    """Probabilities (K, h, w) of some classes -> (C+1, h, w)."""
    full = np.zeros((classes + 1, *probs.shape[1:]), np.float32)
    full[numbers] = probs.float().cpu().numpy()
    return full


def shrunk(image: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """The image (H, W, 3), or, if its longer side is more than `max_side`, scaled down to that (mean of the areas)."""
    height, width = image.shape[:2]
    if max(height, width) <= max_side:
        return image
    scale = max_side / max(height, width)
    size = tuple(max(1, round(side * scale)) for side in (width, height))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def enlarged(labels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A label map (h, w) brought to (H, W), nearest."""
    if labels.shape == tuple(shape):
        return labels
    return cv2.resize(labels, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
