"""Growth against other ways to do it: the released code's loops over pixels, components by OpenCV or by SciPy.

    python -m benchmarks.growth [--quick]

20 images of 41 x 41 and of 321 x 321 with 21 classes: smooth random probabilities of a network that is half sure,
two to four tags an image, a tenth of the pixels seeds. One thread on a CPU; on a GPU if there is one. All sides run in
turn in one process and must agree on every pixel. The released loops run at 41 x 41 only, SciPy where it is installed.
The floor is reading seeds and probabilities and writing labels once, at the rate of a copy. Prints a table and writes
JSON.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.floors import copy_rate, size_of
from benchmarks.released_growth import released_growth
from benchmarks.timing import COLUMNS, Runs, in_turn, ratio, write_figures
from dsrg.method.grid import UNLABELED
from dsrg.method.growing import grow

PAPER = {"fg_thresh": 0.85, "bg_thresh": 0.99}
CLASSES = 21
OURS, ON_GPU = "ours, CPU", "ours, GPU"
Batch = tuple[Tensor, Tensor, Tensor]
Components = Callable[[NDArray[np.bool_]], NDArray]


def example(side: int, *, images: int, seed: int = 0) -> Batch:
    """seeds uint8 (B, side, side), probs float32 (B, 21, side, side), present bool (B, 21)."""
    torch.manual_seed(seed)
    present = torch.zeros(images, CLASSES, dtype=torch.bool)
    present[:, 0] = True
    for row in present:
        row[1 + torch.randperm(CLASSES - 1)[: int(torch.randint(1, 4, ()))]] = True
    logits = F.interpolate(torch.randn(images, CLASSES, 8, 8), (side, side), mode="bicubic", align_corners=True)
    logits = 12 * logits.masked_fill(~present[:, :, None, None], -1)
    winner = logits.argmax(dim=1).to(torch.uint8)
    seeds = torch.where(torch.rand(winner.shape) < 0.1, winner, UNLABELED).to(torch.uint8)
    return seeds, logits.softmax(dim=1), present


def ours(batch: Batch) -> NDArray[np.uint8]:
    return grow(*batch, **PAPER).cpu().numpy()


def released(batch: Batch) -> NDArray[np.uint8]:
    """The released code's loops, image by image."""
    grown = []
    for seeds, probs, present in zip(*(part.numpy() for part in batch), strict=True):
        cues = (seeds == np.arange(CLASSES)[:, None, None]).astype(np.float32)
        cues = released_growth(cues, probs, present, **PAPER)
        grown.append(np.where(cues.any(axis=0), cues.argmax(axis=0), UNLABELED))
    return np.stack(grown)


def by_components(batch: Batch, components: Components) -> NDArray[np.uint8]:
    """Growth by labeling the components of each class in each image."""
    grown = []
    for seeds, probs, present in zip(*(part.numpy() for part in batch), strict=True):
        regions, result = region_map(seeds, probs, present, **PAPER), seeds.copy()
        for number in np.flatnonzero(present):
            labels = components(regions == number)
            kept = np.zeros(labels.max() + 1, bool)
            kept[labels[(seeds == number) & (regions == number)]] = True
            kept[0] = False
            result[kept[labels] & (seeds == UNLABELED)] = number
        grown.append(result)
    return np.stack(grown)


def region_map(seeds: NDArray, probs: NDArray, present: NDArray, *, fg_thresh: float, bg_thresh: float) -> NDArray:
    """What components are sought in, (H, W): the sure class of a pixel, else its seed, else 255."""
    classes = np.flatnonzero(present)
    among = probs[classes]
    winner, highest = classes[among.argmax(axis=0)], among.max(axis=0)
    sure = (highest > fg_thresh) & ((winner != 0) | (highest > bg_thresh))
    return np.where(sure, winner, seeds).astype(np.uint8)


def opencv_components(mask: NDArray[np.bool_]) -> NDArray:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]


def scipy_components(mask: NDArray[np.bool_]) -> NDArray:
    from scipy import ndimage

    return ndimage.label(mask, np.ones((3, 3)))[0]


def sides_of(batch: Batch, *, loops: bool) -> dict[str, Callable[[], NDArray[np.uint8]]]:
    """Title -> growth of the batch, for all that this machine has; `loops`: the released ones too."""
    sides = {OURS: partial(ours, batch), "OpenCV components": partial(by_components, batch, opencv_components)}
    if find_spec("scipy"):
        sides["SciPy components"] = partial(by_components, batch, scipy_components)
    if loops:
        sides["released loops in Python"] = partial(released, batch)
    if torch.cuda.is_available():
        sides[ON_GPU] = partial(ours, tuple(part.cuda() for part in batch))
    return sides


@click.command()
@click.option("--quick", is_flag=True, help="Few small images once: to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "growth.json", help="The JSON file.")
def main(quick: bool, out: Path) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    images, rounds, grids = (2, 1, (9, 17)) if quick else (20, 7, (41, 321))
    rate, figures, floors = copy_rate(torch.device("cpu"), quick=quick), {}, {}
    table = Table("growth", "side", *COLUMNS, "times", title=f"{images} images, {CLASSES} classes; times: of ours")
    for side in grids:
        batch = example(side, images=images)
        sides = sides_of(batch, loops=side == grids[0])
        expected = ours(batch)
        for name, growth in sides.items():
            if not np.array_equal(growth(), expected):
                raise RuntimeError(f"{name} disagrees at {side} x {side}")
        runs = in_turn(sides, rounds=rounds)
        floor = floors[f"{side} x {side}"] = size_of(*batch, batch[0]) / rate
        table.add_row("floor", str(side), f"{1e3 * floor:.2f}")
        found = figures[f"{side} x {side}"] = {}
        for name, run in runs.items():
            # sides on the CPU are single threads, so other programs need not count; for a GPU the processor only waits
            if name != ON_GPU:
                run = Runs(run.processor, run.processor)
            against = ratio(run.wall, runs[OURS].wall if name == ON_GPU else runs[OURS].processor)
            table.add_row(name, str(side), *run.cells(), f"{against['median']:.1f}")
            found[name] = {**run.figures(), "times_ours": against}
    Console().print(table)
    write_figures(out, {"images": images, "classes": CLASSES, "sides": figures, "floor_s": floors})


if __name__ == "__main__":
    main()
