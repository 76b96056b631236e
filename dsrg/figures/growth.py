"""Strips of growing supervision, one an image (paper figure 1)."""

import shutil
from pathlib import Path

from torch import nn

from dsrg.artifacts.growth import read_growth
from dsrg.figures.overlays import growth_pictures, overlay, panels, write_picture
from dsrg.files import atomic_folder
from dsrg.training.growth_recorder import GrowthRecorder


def write_growth(watch: GrowthRecorder, network: nn.Module, *, maps: Path, strips: Path) -> None:
    """Move what was watched to maps/ID/STEP.png (label maps on the grid) and draw strips/ID.png.

    A strip ends with the prediction of the trained network.
    """
    with atomic_folder(maps) as folder:
        if watch.folder.is_dir():
            shutil.copytree(watch.folder, folder, dirs_exist_ok=True)
    with atomic_folder(strips) as folder:
        everything = zip(watch.ids, watch.pictures, watch.seeds, watch.predicted(network), strict=True)
        for image_id, image, seeds, labels in everything:
            pictures = growth_pictures(image, seeds=seeds, grown=read_growth(maps, image_id))
            pictures.append(("prediction", overlay(image, labels)))
            write_picture(folder / f"{image_id}.png", panels([(image_id, image), *pictures]))
