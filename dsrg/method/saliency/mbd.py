"""Saliency by the minimum barrier distance to the image border.

[Zhang]  J. Zhang et al. Minimum barrier salient object detection at 80 FPS. ICCV 2015.
"""

from collections.abc import Sequence

import cv2
import numpy as np

BORDERS = {"top": np.s_[0, :], "bottom": np.s_[-1, :], "left": np.s_[:, 0], "right": np.s_[:, -1]}


def stretch(values: np.ndarray) -> np.ndarray:
    """Brought to 0..1, linearly; zeros where all are the same."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averaging where it shrinks, linear where it grows."""
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def mbd(image: np.ndarray, *, side: int, passes: int, borders: Sequence[str]) -> np.ndarray:
    """Saliency by the minimum barrier distance to the image border [Zhang].

    The barrier of a path is the highest minus the lowest value on it; a pixel is as salient as the least barrier over
    all paths from the border to it, summed over the color channels, as a share of the image's greatest. A smooth
    slope costs only its height, so a sky that fades stays background, while an edge all around an object cannot be
    avoided. The paper's MB+ (distance to the colors of the border, a center prior) is left out.

    Args:
        image: uint8 (H, W, 3) RGB.
        side: longer side in pixels of the reduced image worked on ([Zhang]: 300; small ones overlook texture).
        passes: times the four sweeps (down, up, right, left) are repeated. [Zhang] takes 3 raster scans of two
            directions each, which is one and a half of ours. One leaves faint streaks along rows.
        borders: the edges held for background, out of `BORDERS` ([Zhang]: all four). Photographs cut their objects at
            the bottom more often than elsewhere.

    Returns:
        float32 (H, W) in 0..1; zeros where nothing differs from the border.
    """
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    small = resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    border = np.zeros(small.shape[:2], bool)
    for name in borders:
        border[BORDERS[name]] = True
    planes = np.moveaxis(small, 2, 0).astype(np.float32)
    return resize(stretch(barrier_distances(planes, border, passes=passes).sum(axis=0)), height, width)


def barrier_distances(planes: np.ndarray, seeds: np.ndarray, *, passes: int) -> np.ndarray:
    """Minimum barrier distance of every pixel to the nearest seed, by sweeps over rows and columns ([Zhang] alg. 1).

    Each pass sweeps down, up, right and left; a line takes over the paths of the line before it, pixel by pixel, where
    that lowers its barrier. An upper bound of the true distance that more passes bring down.

    Args:
        planes: float32 (N, h, w), channels treated each by itself.
        seeds: bool (h, w), where paths start.
        passes: at least 1.

    Returns:
        float32 (N, h, w); inf where no path has come by.
    """
    # max - min of a path is max(I) + max(-I): one maximum over both signs carries a path on. Lines first: (h, 2, N, w).
    signed = np.stack([planes, -planes]).transpose(2, 0, 1, 3).copy()
    reach = np.where(seeds[:, None, None], signed, np.float32(np.inf))
    for _ in range(passes):
        for _ in ("rows", "columns"):
            _sweep(signed, reach)
            signed, reach = (np.ascontiguousarray(a.swapaxes(0, 3)) for a in (signed, reach))
    return (reach[:, 0] + reach[:, 1]).swapaxes(0, 1)


def _sweep(signed: np.ndarray, reach: np.ndarray) -> None:
    """Carry paths from line to line, there and back, changing `reach`; both float32 (lines, 2, N, across)."""
    barrier = reach[:, 0] + reach[:, 1]
    path, path_barrier = np.empty_like(reach[0]), np.empty_like(barrier[0])
    better = np.empty(barrier[0].shape, bool)
    there, back = range(1, len(reach)), range(len(reach) - 2, -1, -1)
    for lines, before in ((there, -1), (back, +1)):
        for line in lines:
            np.maximum(reach[line + before], signed[line], out=path)
            np.add(path[0], path[1], out=path_barrier)
            np.less(path_barrier, barrier[line], out=better)
            np.copyto(reach[line], path, where=better)
            np.copyto(barrier[line], path_barrier, where=better)
