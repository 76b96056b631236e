"""Pictures of seeds and of what they came from."""

from pathlib import Path

from dsrg.artifacts.seeds_h5 import Seeds
from dsrg.data.index import Index
from dsrg.evaluation.seed_statistics import ImageCount, best_worst_random
from dsrg.figures.overlays import captioned, overlay, panels, seed_pictures, stacked, write_picture
from dsrg.files import atomic_folder

SHEET_ROWS, SHEET_COLUMNS = 2, 5  # of each kind of images on the contact sheet


def write_seed_overlays(folder: Path, seeds: Seeds, index: Index, *, classes: list[str], count: int) -> None:
    """folder/ID.png of the first `count` images: image, activation maps and saliency where known, seeds."""
    with atomic_folder(folder) as temporary:
        for row in range(min(count, len(index))):
            image_id, image = index.ids[row], index.image(row)
            saliency, cams = seeds.maps(image_id)
            labels = seeds.in_order([image_id])[0]
            pictures = seed_pictures(image, cams=cams, saliency=saliency, seeds=labels, classes=classes)
            write_picture(temporary / f"{image_id}.png", panels(pictures))


def write_contact_sheet(path: Path, images: list[ImageCount], seeds: Seeds, index: Index) -> None:
    """One PNG of images with their seeds: the best, the worst and some at random, see `best_worst_random`.

    Above each its share of undisputed seeds and its id.
    """
    place = {image_id: row for row, image_id in enumerate(index.ids)}
    lines = []
    for kind, chosen in best_worst_random(images, SHEET_ROWS * SHEET_COLUMNS).items():
        pictures = []
        lines.append(captioned(f"{kind}: share of cells with undisputed seeds"))
        for image in chosen:
            pixels, labels = index.image(place[image.id]), seeds.in_order([image.id])[0]
            pictures.append((f"{image.clear:.0%} {image.id}", overlay(pixels, labels)))
        for start in range(0, len(pictures), SHEET_COLUMNS):
            lines.append(panels(pictures[start : start + SHEET_COLUMNS], height=120))
    write_picture(path, stacked(lines))
