"""A trained network for pictures of your own: a path or an array in, a label map of its size out. No params.yaml."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dsrg.artifacts.model_file import Model
from dsrg.data.images import SizedImage, check_image, read_sized
from dsrg.data.index import present_from_tags
from dsrg.errors import InputError
from dsrg.inference import released
from dsrg.inference.predict import Prediction, load_segmenter, predictions
from dsrg.params import CrfKernel, PredictParams
from dsrg.sources.validation import OTHER_TAG, tag_faults

RELEASED, RELEASED_CRF = PredictParams(**released.PREDICT), CrfKernel(**released.CRF)


class Predictor:
    """A trained network with its classes.

    >>> import dsrg
    >>> segmenter = dsrg.Predictor.load("data/retrain.safetensors")
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
    def load(cls, path: str | Path, *, device: str | None = None) -> "Predictor":
        """Read a model file (data/retrain.safetensors, data/dsrg.safetensors). `device`: "cpu", "cuda"; None = a GPU if
        there is one.

        Raises InputError if it is no model file, or there is no such device.
        """
        if device not in (None, "cpu", "cuda"):
            raise InputError(f"device {device!r}: expected cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("device cuda: torch sees no GPU here; use the CPU")
        network, model = load_segmenter(Path(path), stage_name="retrain")
        return cls(network.to(device) if device else network, model)

    @property
    def classes(self) -> list[str]:
        """Names of the classes 1..C; 0 is background."""
        return self.model.classes

    @property
    def on_gpu(self) -> bool:
        return next(self.network.parameters()).is_cuda

    def predict(
        self,
        image: str | Path | NDArray[np.uint8],
        *,
        tags: str | Iterable[str] | None = None,
        crf: bool = False,
        probabilities: bool = False,
        settings: PredictParams = RELEASED,
        kernel: CrfKernel = RELEASED_CRF,
        unsure_below: float = 0.0,
        max_side: int | None = None,
    ) -> NDArray[np.uint8] | tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Label map uint8 (H, W) of an image: 0 background, 1..C `classes`, 255 where nothing reaches `unsure_below`.

        Args:
            image: the path of a file (see data.images; turned as its EXIF orientation says), or uint8 (H, W, 3) RGB.
            tags: names of the classes that may be in it, or the name of one, besides background; None = all.
            crf: follow the image's edges with the fully connected CRF `kernel`.
            probabilities: return (labels, probs float32 (C+1, h, w)), the CRF's if there is one.
            settings: scales, mirror images and how they are merged.
            max_side: a larger image is scaled down to this longer side for all of the work, and its label map enlarged
                again (nearest). (h, w) is the size worked on, (H, W) otherwise. None = that of the settings.

        Raises:
            InputError: for an image that cannot be read, tags that are no classes, or numbers out of their range.
        """
        if not 0 <= unsure_below <= 1:
            raise InputError(f"unsure_below {unsure_below}: expected 0 to 1")
        if max_side is not None and not max_side >= 1:
            raise InputError(f"max_side {max_side}: expected pixels, at least 1, or None")
        settings = settings.model_copy(update={"max_side": max_side}) if max_side else settings
        if isinstance(image, str | Path):
            check_image(image, pixels_max=released.PIXELS_MAX)
            image = read_sized(image, settings.max_side)
        elif not isinstance(image, np.ndarray):
            kind = f"{type(image).__module__}.{type(image).__qualname__}"
            raise InputError(f"an image {kind}; expected a path, or an array uint8 (height, width, 3), RGB")
        elif image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise InputError(f"an image {image.dtype} {image.shape}; expected uint8 (height, width, 3), RGB")
        if tags is not None:
            tags = [tags] if isinstance(tags, str) else list(tags)
            if odd := [tag for tag in tags if not isinstance(tag, str)]:
                raise InputError(f"tags {odd}: expected names of classes, such as {self.classes[0]!r}")
            if faults := tag_faults([("", "tags", tags)], self.classes, else_hint=OTHER_TAG):
                raise InputError(fault.problem for fault in faults)
        (found,) = self.predictions(
            [image],
            None if tags is None else present_from_tags([tags], self.classes),
            settings=settings,
            kernel=kernel if crf else None,
            probabilities=probabilities,
            unsure_below=unsure_below,
        )
        return (found.labels, found.probs) if probabilities else found.labels

    def predictions(
        self,
        images: Iterable[NDArray[np.uint8] | SizedImage],
        present: NDArray[np.bool_] | None,
        *,
        settings: PredictParams,
        kernel: CrfKernel | None,
        batch: int = 1,
        **wanted: object,
    ) -> Iterator[Prediction]:
        """Each image's prediction at its own size, in order, see `dsrg.inference.predict.predictions`."""
        options = {"size": self.model.size, "kernel": kernel, "batch": batch}
        return predictions(self.network, images, present, settings, **options, **wanted)
