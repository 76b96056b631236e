"""Where label maps lie, and what their numbers mean.

Networks score the pixels of a grid of stride 8: a side of 8k+1 pixels has k+1 cells, whose centers lie on every eighth
pixel, so that the corners of image and grid are the same points. Every label map (seeds, grown seeds, pseudo labels,
ground truth, predictions) is uint8: 0 is background, 1..C are the classes in the order of classes.txt.
"""

STRIDE = 8  # pixels between two cells
UNLABELED = 255


def grid_size(pixels: int) -> int:
    """Cells along a side of `pixels`: 321 -> 41."""
    return (pixels - 1) // STRIDE + 1


def pixels_of(cells: int) -> int:
    """The side in pixels whose grid has so many cells: 41 -> 321."""
    return STRIDE * (cells - 1) + 1


def nearest_side(pixels: float) -> int:
    """The side of the form 8k+1 nearest to one of `pixels`: 240.75 -> 241."""
    return STRIDE * round((pixels - 1) / STRIDE) + 1
