"""Images as the networks see them: sides of 8k+1 pixels, warped to squares as in training or in their own shape."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsrg.data.batches import WHOLE, crop_and_resize
from dsrg.data.index import Index
from dsrg.method.grid import STRIDE, nearest_side, pixels_of

BATCH = 8  # images in a network at once
SHARD = 2 * BATCH  # images in a file of unfinished work: whole batches, so that nobody's neighbors change


def scaled_side(size: int, scale: float) -> int:
    """The side of the form 8k+1 nearest to scale * size: 0.75 of 321 -> 241."""
    return nearest_side(scale * size)


def warp_to_square(images: Iterable[NDArray[np.uint8]], side: int) -> Tensor:
    """uint8 (H, W, 3) of any sizes -> uint8 (B, 3, side, side)."""
    cut = np.stack([crop_and_resize(image, WHOLE, size=side) for image in images])
    return torch.from_numpy(cut.transpose(0, 3, 1, 2).copy())


def mean_over_looks(
    maps_of: Callable[[Tensor], Tensor],
    images: list[NDArray[np.uint8]],
    *,
    size: int,
    scales: list[float],
    flip: bool,
    device: torch.device,
) -> Tensor:
    """Mean of the maps float (B, K, h, w) of images warped to squares of scale * size pixels, and of mirrored ones."""
    total = 0
    for scale in scales:
        batch = warp_to_square(images, scaled_side(size, scale)).to(device)
        for mirrored in [False, True] if flip else [False]:
            maps = maps_of(batch.flip(3) if mirrored else batch)
            total = total + (maps.flip(3) if mirrored else maps)
    return total / (len(scales) * (1 + flip))


def sample_grid_pixels(image: NDArray[np.uint8], grid: int) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) -> uint8 (grid, grid, 3), the pixels of its square that the grid's cells stand for."""
    return crop_and_resize(image, WHOLE, size=pixels_of(grid))[::STRIDE, ::STRIDE]


def resize_native(image: NDArray[np.uint8], scale: float) -> Tensor:
    """uint8 (H, W, 3) -> uint8 (1, 3, h, w), scale times its own size, each side the nearest 8k+1 (at least 9)."""
    size = tuple(max(9, scaled_side(side, scale)) for side in image.shape[:2])
    return torch.from_numpy(crop_and_resize(image, WHOLE, size=size).transpose(2, 0, 1).copy())[None]


def read_images(index: Index) -> Iterator[NDArray[np.uint8]]:
    """The images of the index, uint8 (H, W, 3) each, in order, as large as they are, whatever its `max_side`."""
    whole = replace(index, max_side=None)
    return (whole.image(row) for row in range(len(index)))


def image_batches(index: Index, *, batch: int) -> Iterator[tuple[list[int], list[NDArray[np.uint8]]]]:
    """Rows of the index and their images, a few at a time, in order."""
    for start in range(0, len(index), batch):
        rows = list(range(start, min(start + batch, len(index))))
        yield rows, [index.image(row) for row in rows]
