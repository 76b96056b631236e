"""Pictures of seeds and of what they came from."""

from pathlib import Path

from dsrg.artifacts.seeds_h5 import Seeds
from dsrg.data.images import read_image
from dsrg.data.index import Index
from dsrg.figures.overlays import panels, write_picture
from dsrg.figures.steps import seed_pictures
from dsrg.files import whole_folder


def write_seed_overlays(
    folder: Path, seeds: Seeds, index: Index, root: Path, *, classes: list[str], count: int
) -> None:
    """folder/ID.png of the first `count` images: image, activation maps and saliency where known, seeds."""
    with whole_folder(folder) as temporary:
        for row in range(min(count, len(index))):
            image_id, image = index.ids[row], read_image(root / index.paths[row])
            saliency, cams = seeds.maps(image_id)
            labels = seeds.in_order([image_id])[0]
            pictures = seed_pictures(image, cams=cams, saliency=saliency, seeds=labels, classes=classes)
            write_picture(temporary / f"{image_id}.png", panels(pictures))
