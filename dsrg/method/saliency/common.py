"""What the saliency methods share: the borders of an image, resizing, and the check of what they are given."""

import cv2
import numpy as np

from dsrg.errors import InputError

BORDERS = {"top": np.s_[0, :], "bottom": np.s_[-1, :], "left": np.s_[:, 0], "right": np.s_[:, -1]}


def stretch(values: np.ndarray) -> np.ndarray:
    """Brought to 0..1, linearly; zeros where all are the same."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averaging where it shrinks, linear where it grows."""
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def check_arguments(image: np.ndarray, *rules: tuple[bool, str]) -> None:
    """Raises InputError for anything but an image uint8 (H, W, 3), and for each (holds, message) that does not hold."""
    is_image = image.ndim == 3 and image.shape[2] == 3 and image.size > 0 and image.dtype == np.uint8
    rules = ((is_image, f"image: expected uint8 (H, W, 3) RGB, got {image.dtype} {image.shape}"), *rules)
    if problems := [message for holds, message in rules if not holds]:
        raise InputError(problems)
