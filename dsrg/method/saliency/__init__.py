"""Unsupervised saliency, a prior for where the background is (high = object).

The methods here learn from nothing, so no pixel label reaches the seeds through them. They hold the border of an image
for mostly background and ask how well each place is connected to it: `mbd` along paths of pixels, `rbd` through a graph
of superpixels. Their errors differ, and `combined`, the mean of both, is the better prior.
"""

from collections.abc import Sequence

import numpy as np

from dsrg.method.saliency.mbd import mbd
from dsrg.method.saliency.rbd import rbd


def combined(
    image: np.ndarray,
    *,
    side: int,
    passes: int,
    borders: Sequence[str],
    superpixels: int,
    sigma_color: float,
    optimize: bool,
) -> np.ndarray:
    """Mean of `mbd` and `rbd`; arguments and result as there."""
    barrier = mbd(image, side=side, passes=passes, borders=borders)
    return (barrier + rbd(image, superpixels=superpixels, sigma_color=sigma_color, optimize=optimize)) / 2
