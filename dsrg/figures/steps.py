"""Pictures of single steps of the way: activation maps, saliency, seeds, growth."""

import cv2
import numpy as np
from numpy.typing import NDArray

from dsrg.figures.overlays import overlay

Picture = NDArray[np.uint8]
Captioned = tuple[str, Picture]


def heat(image: Picture, values: NDArray[np.floating]) -> Picture:
    """A map in 0..1 of any size over the image in grays: dark blue = 0, yellow = 1."""
    values = cv2.resize(values.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colors = cv2.applyColorMap((values.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(gray, 0.35, np.ascontiguousarray(colors), 0.65, 0)


def seed_pictures(
    image: Picture,
    *,
    cams: dict[int, NDArray[np.floating]],
    saliency: NDArray[np.floating] | None,
    seeds: NDArray[np.uint8],
    classes: list[str],
) -> list[Captioned]:
    """The image, the activation maps of its tagged classes and saliency, as far as there are any, and the seeds."""
    maps = [(f"CAM {classes[number - 1]}", heat(image, cam)) for number, cam in cams.items()]
    if saliency is not None:
        maps.append(("saliency", heat(image, saliency)))
    return [("image", image), *maps, ("seeds", overlay(image, seeds))]


def growth_pictures(
    image: Picture, *, seeds: NDArray[np.uint8], grown: dict[int, NDArray[np.uint8]]
) -> list[Captioned]:
    """Paper figure 1: the seeds, then the grown seeds at some steps of training."""
    steps = [(f"grown, step {step}", overlay(image, labels)) for step, labels in grown.items()]
    return [("seeds", overlay(image, seeds)), *steps]
