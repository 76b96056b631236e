"""The fully connected CRF of one image by pydensecrf."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Kernel:
    """What joins every pair of pixels, and how often they exchange. In brackets: the released code's."""

    gaussian_weight: float  # Potts weight of the kernel over places (3)
    gaussian_xy: float  # its standard deviation, pixels of the images given (3; over 12 in training)
    bilateral_weight: float  # Potts weight of the kernel over places and colors (10)
    bilateral_xy: float  # its standard deviation in place, pixels (80; over 12 in training)
    bilateral_rgb: float  # ... and in color, 0..255 (13)
    iterations: int  # mean-field updates (10)


def mean_field(image: NDArray[np.uint8], energies: NDArray[np.float32], kernel: Kernel) -> NDArray[np.float32]:
    """One image's CRF: image uint8 (3, H, W) RGB, energies float32 (C, H, W) -> probabilities float32 (C, H, W).

    Gaussian kernels, symmetric normalization, Potts compatibility: Kraehenbuehl and Koltun 2011. Needs pydensecrf,
    which is imported here only.
    """
    import pydensecrf.densecrf as densecrf

    classes, height, width = energies.shape
    if classes == 1:
        return np.ones_like(energies)
    crf = densecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(energies.reshape(classes, -1), dtype=np.float32))
    crf.addPairwiseGaussian(sxy=kernel.gaussian_xy, compat=kernel.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=kernel.bilateral_xy,
        srgb=kernel.bilateral_rgb,
        rgbim=np.ascontiguousarray(image.transpose(1, 2, 0)),
        compat=kernel.bilateral_weight,
    )
    return np.array(crf.inference(kernel.iterations), dtype=np.float32).reshape(energies.shape)
