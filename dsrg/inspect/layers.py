"""What the page can lay over an image: label maps and maps of numbers, as JSON that holds their very values."""

from base64 import b64encode
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dsrg.errors import InputError

SIDE_MAX = 1200  # pixels; a larger image and its label maps are shown with fewer


def labels_layer(key: str, name: str, labels: NDArray[np.uint8], *, corners: bool) -> dict:
    """Label map uint8 (h, w). `corners`: its corner cells lie on the image's corners, as those of the grid do."""
    return _layer("labels", key, name, corners) | _values(labels.astype(np.uint8))


def map_layer(key: str, name: str, values: NDArray[np.floating], *, label: int | None = None) -> dict:
    """Numbers 0..1 on the grid, float (h, w); `label`: the class they speak of."""
    return _layer("map", key, name, corners=True) | _values(values.astype("<f4")) | {"label": label}


def steps_layer(key: str, name: str, grown: dict[int, NDArray[np.uint8]]) -> dict:
    """Label maps on the grid by the step of training that they belong to."""
    steps = [{"step": step} | _values(labels) for step, labels in sorted(grown.items())]
    return _layer("labels", key, name, corners=True) | {"steps": steps}


def missing_layer(key: str, name: str, why: str) -> dict:
    return {"kind": "missing", "key": key, "name": name, "why": why}


def or_missing(key: str, name: str, make: Callable[..., dict], *arguments: object) -> dict:
    """A layer, or in its place what is wrong with its file."""
    try:
        return make(*arguments)
    except InputError as error:
        return missing_layer(key, name, str(error))


def at_most(labels: NDArray) -> NDArray:
    """Every n-th row and column, so that neither side is longer than SIDE_MAX."""
    step = -(-max(labels.shape[:2]) // SIDE_MAX)
    return labels[::step, ::step]


def _layer(kind: str, key: str, name: str, corners: bool) -> dict:
    return {"kind": kind, "key": key, "name": name, "corners": corners}


def _values(values: NDArray) -> dict:
    height, width = values.shape
    return {"height": height, "width": width, "data": b64encode(np.ascontiguousarray(values).tobytes()).decode()}
