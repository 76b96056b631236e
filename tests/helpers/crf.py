"""Kernels of the CRF as keywords of `dense_crf`, without the iterations."""

import importlib.util

import pytest

needs_pydensecrf = pytest.mark.skipif(not importlib.util.find_spec("pydensecrf"), reason="pydensecrf is not installed")


def kernel(*values: float) -> dict[str, float]:
    names = "gaussian_weight", "gaussian_xy", "bilateral_weight", "bilateral_xy", "bilateral_rgb"
    return dict(zip(names, values, strict=True))


PAPER = kernel(3.0, 3.0, 10.0, 80.0, 13.0)
PAPER_IN_TRAINING = kernel(3.0, 0.25, 10.0, 80 / 12, 13.0)
