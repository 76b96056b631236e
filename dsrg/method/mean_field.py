"""The fully connected CRF of one image by pydensecrf (NumPy only, so that worker processes start fast)."""

import numpy as np
from numpy.typing import NDArray


def mean_field(job: tuple[NDArray[np.uint8], NDArray[np.float32], dict]) -> NDArray[np.float32]:
    """One image's CRF: (image uint8 (3, H, W) RGB, energies float32 (C, H, W), kernel) -> float32 (C, H, W).

    Gaussian kernels, symmetric normalisation, Potts compatibility: Kraehenbuehl and Koltun 2011. Needs pydensecrf,
    which is imported here only.
    """
    import pydensecrf.densecrf as densecrf

    image, energies, kernel = job
    classes, height, width = energies.shape
    if classes == 1:
        return np.ones_like(energies)
    crf = densecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(energies.reshape(classes, -1), dtype=np.float32))
    crf.addPairwiseGaussian(sxy=kernel["gaussian_xy"], compat=kernel["gaussian_weight"])
    crf.addPairwiseBilateral(
        sxy=kernel["bilateral_xy"],
        srgb=kernel["bilateral_rgb"],
        rgbim=np.ascontiguousarray(image.transpose(1, 2, 0)),
        compat=kernel["bilateral_weight"],
    )
    return np.array(crf.inference(kernel["iterations"]), dtype=np.float32).reshape(energies.shape)
