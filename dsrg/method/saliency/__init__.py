"""Unsupervised saliency, a prior for where the background is (high = object).

The methods here learn from nothing, so no pixel label reaches the seeds through them. They hold the border of an image
for mostly background and ask how well each place is connected to it: `mbd` along paths of pixels, `rbd` through a graph
of superpixels. Their errors differ, and `combined`, the mean of both, is the better prior.
"""

import numpy as np

from dsrg.method.saliency.mbd import mbd
from dsrg.method.saliency.rbd import rbd


def combined(
    image: np.ndarray, *, superpixels: int, sigma_color: float, optimize: bool, **for_mbd: object
) -> np.ndarray:
    """Mean of `mbd` and `rbd`; arguments and result as there."""
    return (mbd(image, **for_mbd) + rbd(image, superpixels=superpixels, sigma_color=sigma_color, optimize=optimize)) / 2
