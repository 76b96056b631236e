"""Training batches: which images, how they are cut and colored, as pure functions of the seed and the step.

Nothing here depends on how many threads load or where a run was resumed, so a resumed run sees the same pictures.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsrg.data.index import Index
from dsrg.errors import InputError
from dsrg.method.grid import UNLABELED, grid_size
from dsrg.params import Augment
from dsrg.runtime.environment import env_float, worker_count

PAD_COLOR = (124, 116, 104)  # ImageNet's mean color: what lies beyond the image is neutral after normalizing


@dataclass(frozen=True)
class Batch:
    """images uint8 (B, 3, S, S) RGB; labels uint8 (B, h, w) or None; present bool (B, C+1); ids."""

    images: Tensor
    labels: Tensor | None
    present: Tensor
    ids: list[str]

    def pinned(self) -> "Batch":
        """In memory that a GPU reads by itself, while this process goes on."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        labels = None if self.labels is None else change(self.labels)
        return Batch(change(self.images), labels, change(self.present), self.ids)


@dataclass(frozen=True)
class CropWindow:
    """The part of an image that becomes the network's square, in units of the image's sides; may reach outside."""

    top: float
    left: float
    height: float
    width: float
    flip: bool


WHOLE = CropWindow(0.0, 0.0, 1.0, 1.0, False)


def batch_indices(step: int, *, images: int, batch: int, seed: int) -> NDArray[np.int64]:
    """Indices (batch,) of the images of a step: epochs of seeded permutations, cut into batches without a rest.

    The permutations of the last two epochs are the only memory it needs: 16 bytes an image.
    """
    epochs, places = np.divmod(np.arange(step * batch, (step + 1) * batch), images)
    pairs = zip(epochs.tolist(), places.tolist(), strict=True)
    return np.array([_epoch_order(images, seed, epoch)[place] for epoch, place in pairs])


@lru_cache(maxsize=2)
def _epoch_order(images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(images)


def sample_rng(*, seed: int, sample: int) -> np.random.Generator:
    """The random numbers of the `sample`-th image that a training sees, from 0; a step may hold an image twice."""
    return np.random.default_rng([seed, sample, 1])  # the 1 keeps them apart from those of `_epoch_order`


def draw_window(rng: np.random.Generator, *, image: tuple[int, int], size: int, augment: Augment) -> CropWindow:
    """Enlarge by a scale in [scale_min, scale_max] and cut a square of `size` pixels out, anywhere.

    What is enlarged is the image (height, width) warped to that square (shape "square") or as it is ("native"). Where
    that is smaller than the square it lies anywhere in it, surrounded by nothing (released `layer.py`: top left).
    """
    scale = rng.uniform(augment.scale_min, augment.scale_max)
    if augment.shape == "native":
        height, width = ((size - 1) / (scale * max(side - 1, 1)) for side in image)
    else:
        height = width = 1 / scale
    top, left = (rng.uniform(min(0, 1 - side), max(0, 1 - side)) for side in (height, width))
    return CropWindow(top, left, height, width, bool(augment.flip and rng.random() < 0.5))


def crop_and_resize(image: NDArray[np.uint8], window: CropWindow, *, size: int | tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) -> uint8 (h, w, 3) of `size` (height, width) or a square, bilinear with aligned corners."""
    rows, columns = (size, size) if isinstance(size, int) else size
    height, width = image.shape[:2]
    step_x = window.width * (width - 1) / max(columns - 1, 1)
    step_y = window.height * (height - 1) / max(rows - 1, 1)
    left, top = window.left * (width - 1), window.top * (height - 1)
    if window.flip:
        left, step_x = left + step_x * (columns - 1), -step_x
    to_image = np.array([[step_x, 0, left], [0, step_y, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        image, to_image, (columns, rows), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=PAD_COLOR
    )


def crop_labels(labels: NDArray[np.uint8], window: CropWindow, *, size: int) -> NDArray[np.uint8]:
    """uint8 (H, W) label map -> uint8 (size, size), nearest, aligned with `crop_and_resize`; outside 255."""
    places = np.linspace(0, 1, size)
    y = window.top + window.height * places
    x = window.left + window.width * (places[::-1] if window.flip else places)
    rows, columns = (np.rint(at * (n - 1)).astype(int) for at, n in zip((y, x), labels.shape, strict=True))
    inside = ((rows >= 0) & (rows < labels.shape[0]))[:, None] & ((columns >= 0) & (columns < labels.shape[1]))
    cut = labels[rows.clip(0, labels.shape[0] - 1)][:, columns.clip(0, labels.shape[1] - 1)]
    return np.where(inside, cut, UNLABELED).astype(np.uint8)


def erase(image: NDArray[np.uint8], cells: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Paint cells of a grid with the mean color, nearest: uint8 (H, W, 3), bool (h, w) -> uint8 (H, W, 3)."""
    sides = zip(image.shape[:2], cells.shape, strict=True)
    rows, columns = (np.rint(np.linspace(0, count - 1, side)).astype(int) for side, count in sides)
    return np.where(cells[rows][:, columns, None], np.uint8(PAD_COLOR), image)


def color_jitter(image: NDArray[np.uint8], rng: np.random.Generator, *, strength: float) -> NDArray[np.uint8]:
    """Brightness, contrast and saturation each times a factor in [1 - strength, 1 + strength]."""
    if not strength:
        return image
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    pixels = gray[..., None] + np.float32(saturation) * (image.astype(np.float32) - gray[..., None])
    pixels = brightness * (gray.mean() + contrast * (pixels - gray.mean()))
    return pixels.clip(0, 255).astype(np.uint8)


def cache_room() -> int:
    """Bytes of decoded images that a training keeps in memory: DSRG_CACHE_GIB times 2**30, else 2 GiB.

    It changes no result. VOC's 10,582 training images are about 5.3 GiB decoded.
    """
    return int(min(env_float("DSRG_CACHE_GIB"), 2.0**20) * 2**30)


class Batches:
    """An endless, seekable supply of batches; decoded images, uint8, are kept in memory up to `cache_bytes`.

    Threads decode and cut ahead of the training (OpenCV works outside Python's lock), so there are no worker
    processes to die and nothing to share.

    labels: uint8 label maps in the order of `index`, of any size each (seeds or pseudo labels), or None.
    erased: cells of each image to be painted over, see `erase`.
    cache_bytes: None = `cache_room`.
    """

    def __init__(
        self,
        index: Index,
        *,
        labels: Sequence[NDArray[np.uint8]] | None,
        erased: Sequence[NDArray[np.bool_]] | None = None,
        size: int,
        batch: int,
        seed: int,
        augment: Augment,
        cache_bytes: int | None = None,
    ) -> None:
        if not len(index):
            raise InputError("no image to learn from: the index has none of the split train; run the stage `prepare`")
        self.index, self.labels, self.erased = index, labels, erased
        self.size, self.batch, self.seed = size, batch, seed
        self.augment = augment
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._room, self._lock = cache_room() if cache_bytes is None else cache_bytes, Lock()
        self.first, self.stop = 0, batch

    def part(self, number: int, parts: int) -> "Batches":
        """The same supply, but only part `number` (from 0) of `parts` of each batch: images `first` to `stop` - 1.

        Parts are as long as each other, or one image longer; put together they are the batch. Each keeps images within
        its share of the room. Raises InputError when there are more parts than images in a batch.
        """
        if parts > self.batch:
            raise InputError(f"a batch of {self.batch} images has no part for each of {parts} processes; use fewer")
        mine = copy(self)
        mine.first, mine.stop = (self.batch * edge // parts for edge in (number, number + 1))
        mine._cache, mine._room, mine._lock = {}, self._room // parts, Lock()
        return mine

    def ids(self, step: int) -> list[str]:
        """The images of the whole batch of a step."""
        rows = batch_indices(step, images=len(self.index), batch=self.batch, seed=self.seed)
        return [self.index.ids[row] for row in rows]

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, or this part of it."""
        rows = batch_indices(step, images=len(self.index), batch=self.batch, seed=self.seed)[self.first : self.stop]
        first = step * self.batch + self.first
        pairs = [self._example(int(row), sample) for sample, row in enumerate(rows, first)]
        images = torch.from_numpy(np.stack([image for image, _ in pairs]).transpose(0, 3, 1, 2).copy())
        labels = None if self.labels is None else torch.from_numpy(np.stack([label for _, label in pairs]))
        present = torch.from_numpy(self.index.present[rows])
        return Batch(images, labels, present, [self.index.ids[row] for row in rows])

    def ahead(self, start: int, stop: int, *, threads: int | None = None) -> Iterator[Batch]:
        """Batches of the steps start..stop-1 in order, made by threads a little ahead, pinned where there is a GPU.

        threads: None = one a core, eight at most.
        """
        threads, pinning = threads or min(worker_count(), 8), torch.cuda.is_available()

        def load(step: int) -> Batch:
            return self[step].pinned() if pinning else self[step]

        with ThreadPoolExecutor(threads) as executor:
            waiting = [executor.submit(load, step) for step in range(start, min(start + threads + 1, stop))]
            for step in range(start, stop):
                yield waiting.pop(0).result()
                if step + threads + 1 < stop:
                    waiting.append(executor.submit(load, step + threads + 1))

    def _example(self, row: int, sample: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        rng = sample_rng(seed=self.seed, sample=sample)
        whole = self._image(row) if self.erased is None else erase(self._image(row), self.erased[row])
        window = draw_window(rng, image=whole.shape[:2], size=self.size, augment=self.augment)
        image = color_jitter(crop_and_resize(whole, window, size=self.size), rng, strength=self.augment.color)
        grid = grid_size(self.size)
        return image, None if self.labels is None else crop_labels(self.labels[row], window, size=grid)

    def _image(self, row: int) -> NDArray[np.uint8]:
        if row in self._cache:
            return self._cache[row]
        image = self.index.image(row)
        with self._lock:  # two threads may have decoded the same image
            if row not in self._cache and image.nbytes <= self._room:
                self._room -= image.nbytes
                self._cache[row] = image
        return image
