"""How the released code predicts, as plain values: for pictures of your own, which come without a params.yaml.

recipes/voc2012-vgg16.yaml says the same.
"""

PREDICT = {
    "shape": "square",  # `test-ms.py`
    "scales": [0.75, 1.0, 1.25],
    "flip": False,
    "merge": "sum",
    "max_side": 1024,  # pixels, longer side worked on; twice VOC's (not of the released code)
}
CRF = {
    "gaussian_weight": 3.0,
    "gaussian_xy": 3.0,  # pixels
    "bilateral_weight": 10.0,
    "bilateral_xy": 80.0,  # pixels
    "bilateral_rgb": 13.0,  # 0..255
    "iterations": 10,
    "min_prob": 1e-5,
}
PIXELS_MAX = 100_000_000  # larger images are refused
