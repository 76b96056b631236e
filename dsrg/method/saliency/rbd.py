"""Saliency by robust background detection, on a graph of superpixels.

[Zhu]    W. Zhu, S. Liang, Y. Wei, J. Sun. Saliency optimization from robust background detection. CVPR 2014.
[Achanta] R. Achanta et al. SLIC superpixels compared to state-of-the-art superpixel methods. TPAMI 2012.
"""

import cv2
import numpy as np

from dsrg.method.saliency.mbd import BORDERS, resize, stretch

# What the papers fix and nobody tunes.
CELL = 12  # side in pixels of the grid cell a superpixel grows from; with `superpixels` it sets the working size of rbd
COMPACTNESS = 10.0  # [Achanta] m: the difference in Lab color that weighs as much as the side of a cell
SLIC_ROUNDS = 6  # [Achanta] takes 10; the saliency is as good after 6
SIGMA_CONNECTIVITY = 1.0  # [Zhu] eq. 5, sigma_bndCon, of boundary connectivity (no unit)
SIGMA_SPACE = 0.25  # [Zhu] eq. 6, sigma_spa, in units of the longer side of the image
SMOOTHNESS_FLOOR = 0.1  # [Zhu] eq. 9, mu: the least weight that ties neighboring superpixels together


def rbd(image: np.ndarray, *, superpixels: int, sigma_color: float, optimize: bool) -> np.ndarray:
    """Saliency by robust background detection [Zhu].

    Superpixels form a graph whose lengths are differences of color. What is within easy reach of a superpixel is the
    region it belongs to; a region that lies along the border for much of its outline is background, one that touches
    it here and there is not: "boundary connectivity", the length on the border over the root of the area. Saliency is
    one minus the paper's background probability (eq. 5), an absolute measure, or the map the paper optimizes from it.

    Args:
        image: uint8 (H, W, 3) RGB.
        superpixels: how many, about ([Zhu]: some 200).
        sigma_color: difference in Lab color that still counts as near ([Zhu] sigma_clr: 10, good from 5 to 15).
        optimize: go on to the paper's least squares (eq. 9): background probability pulls to 0, contrast of color
            to 1, likeness to the neighbors. The map is finer within an object, but contrast also marks background.

    Returns:
        float32 (H, W) in 0..1; zeros on an image of one color.
    """
    height, width = image.shape[:2]
    if (image == image[0, 0]).all():
        return np.zeros((height, width), np.float32)
    labels, color, center = slic(image, superpixels=superpixels)
    adjacent = _adjacency(labels, len(color))
    border = np.zeros(len(color), bool)
    for edge in BORDERS.values():
        border[labels[edge]] = True
    difference = _pairwise_distances(color)

    # Superpixels on the border count as linked: a background that an object cuts in two is still one.
    linked = adjacent | (border[:, None] & border)
    near = _similarity(geodesic_distances(np.where(linked, difference, np.inf)), sigma_color)
    connectivity = near[:, border].sum(axis=1) / np.sqrt(near.sum(axis=1))
    foreground = _similarity(connectivity, SIGMA_CONNECTIVITY)
    if optimize:
        contrast = _contrast(difference, center, background=1 - foreground)
        foreground = _optimize(contrast, _smoothness(adjacent, difference, sigma_color), background=1 - foreground)
    return resize(foreground.astype(np.float32)[labels], height, width)


def geodesic_distances(lengths: np.ndarray) -> np.ndarray:
    """Shortest paths between all pairs of nodes (Floyd-Warshall).

    lengths float (K, K), at least 0, inf where there is no link; the diagonal is taken as 0 -> float32 (K, K), inf
    between parts that are not connected.
    """
    distances = lengths.astype(np.float32)
    np.fill_diagonal(distances, 0)
    through = np.empty_like(distances)
    for node in range(len(distances)):
        np.add(distances[:, node, None], distances[node], out=through)
        np.minimum(distances, through, out=distances)
    return distances


def slic(image: np.ndarray, *, superpixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SLIC superpixels [Achanta]: k-means of color and place, each pixel bound to the 3x3 cells around its own.

    The image is resized to whole cells of `CELL` pixels, so that the search of a cell is one matrix product. Pieces cut
    off from their superpixel are not reassigned.

    Args:
        image: uint8 (H, W, 3) RGB.
        superpixels: how many, about; at most one for each row and column of the image.

    Returns:
        labels int (h, w) in 0..K-1 at the working size, color float32 (K, 3) in Lab, center float32 (K, 2) as (y, x)
        in units of the longer side of the image.
    """
    height, width = image.shape[:2]
    step = np.sqrt(height * width / superpixels)
    rows, columns = (int(np.clip(round(n / step), 1, min(n, superpixels))) for n in (height, width))
    cells = rows * columns
    lab = cv2.cvtColor(resize(image, rows * CELL, columns * CELL).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    place = np.indices(lab.shape[:2], np.float32).transpose(1, 2, 0) * (COMPACTNESS / CELL)
    features = np.concatenate([lab, place], axis=2).reshape(rows, CELL, columns, CELL, 5)
    features = features.swapaxes(1, 2).reshape(cells, CELL * CELL, 5)

    # The cells around each, (cells, 9); beyond the image lies one more cell, which is never the nearest.
    around = np.pad(np.arange(cells).reshape(rows, columns), 1, constant_values=cells)
    around = np.lib.stride_tricks.sliding_window_view(around, (3, 3)).reshape(cells, 9)
    means = features.mean(axis=1)
    # |f - c|^2 = |f|^2 + (f, 1) . (-2 c, |c|^2), and |f|^2 is the same for all nine.
    extended = np.concatenate([features, np.ones_like(features[..., :1])], axis=2).transpose(0, 2, 1)
    key = np.zeros((cells + 1, 6), np.float32)
    key[cells, 5] = np.inf
    for _ in range(SLIC_ROUNDS):
        key[:cells, :5], key[:cells, 5] = -2 * means, (means**2).sum(axis=1)
        nearest = (key[around] @ extended).argmin(axis=1)  # (cells, CELL * CELL)
        labels = np.take_along_axis(around, nearest, axis=1)
        size = np.bincount(labels.ravel(), minlength=cells)
        sums = [np.bincount(labels.ravel(), values, cells) for values in features.reshape(-1, 5).T]
        means = np.where(size[:, None] > 0, np.stack(sums, axis=1) / np.maximum(size, 1)[:, None], means)
        means = means.astype(np.float32)

    used, labels = np.unique(labels, return_inverse=True)
    labels = labels.reshape(rows, columns, CELL, CELL).swapaxes(1, 2).reshape(rows * CELL, columns * CELL)
    stretch = np.array([height / rows, width / columns], np.float32) / max(height, width)
    return labels, means[used, :3], means[used, 3:] / COMPACTNESS * stretch


def _contrast(difference: np.ndarray, center: np.ndarray, *, background: np.ndarray) -> np.ndarray:
    """Contrast of each superpixel with the background near it, stretched to 0..1 ([Zhu] eq. 7)."""
    closeness = _similarity(_pairwise_distances(center), SIGMA_SPACE)
    return stretch((difference * closeness * background).sum(axis=1))


def _smoothness(adjacent: np.ndarray, difference: np.ndarray, sigma_color: float) -> np.ndarray:
    """Weights that tie superpixels to their neighbors and the neighbors' neighbors ([Zhu] eq. 10)."""
    links = adjacent.astype(np.float32)
    tied = (links + links @ links) > 0
    np.fill_diagonal(tied, False)
    return np.where(tied, _similarity(difference, sigma_color) + SMOOTHNESS_FLOOR, 0)


def _optimize(foreground: np.ndarray, smoothness: np.ndarray, *, background: np.ndarray) -> np.ndarray:
    """The s that minimizes sum b s^2 + sum f (s - 1)^2 + sum_i<j w_ij (s_i - s_j)^2, stretched ([Zhu] eq. 9)."""
    system = np.diag(background + foreground + smoothness.sum(axis=1)) - smoothness
    return stretch(np.linalg.solve(system, foreground))


def _adjacency(labels: np.ndarray, count: int) -> np.ndarray:
    """Which labels touch: bool (count, count), symmetric, false on the diagonal."""
    adjacent = np.zeros((count, count), bool)
    adjacent[labels[:, :-1], labels[:, 1:]] = True
    adjacent[labels[:-1], labels[1:]] = True
    adjacent |= adjacent.T
    np.fill_diagonal(adjacent, False)
    return adjacent


def _pairwise_distances(points: np.ndarray) -> np.ndarray:
    return np.sqrt(((points[:, None] - points) ** 2).sum(axis=2))


def _similarity(distance: np.ndarray, sigma: float) -> np.ndarray:
    return np.exp(distance**2 / (-2 * sigma**2))
