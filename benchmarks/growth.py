"""Growth against other ways to do it: the released algorithm pixel by pixel, connected components by OpenCV or SciPy.

    python -m benchmarks.growth

20 images of 41 x 41 and of 321 x 321 with 21 classes: smooth random probabilities of a network that is half sure,
two to four tags an image, a tenth of the pixels seeds. One thread on a CPU; on a GPU if there is one. All sides run
interleaved in one process, must agree on every pixel, and are reported as median, minimum and maximum. SciPy is
measured where it is installed. Writes benchmarks/results/growth.json.
"""

import statistics
import sys
import time
from collections.abc import Callable

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
from dsrg.files import write_json
from dsrg.method.growing import grow
from dsrg.method.label_maps import UNLABELLED

PAPER = {"fg_thresh": 0.85, "bg_thresh": 0.99}
CLASSES, IMAGES = 21, 20
Components = Callable[[NDArray[np.bool_]], NDArray]


def example(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """seeds uint8 (20, side, side), probs float32 (20, 21, side, side), present bool (20, 21)."""
    torch.manual_seed(0)
    present = torch.zeros(IMAGES, CLASSES, dtype=torch.bool)
    present[:, 0] = True
    for row in present:
        row[1 + torch.randperm(CLASSES - 1)[: int(torch.randint(1, 4, ()))]] = True
    logits = F.interpolate(torch.randn(IMAGES, CLASSES, 8, 8), (side, side), mode="bicubic", align_corners=True)
    logits = 12 * logits.masked_fill(~present[:, :, None, None], -1)
    winner = logits.argmax(dim=1).to(torch.uint8)
    seeds = torch.where(torch.rand(winner.shape) < 0.1, winner, UNLABELLED).to(torch.uint8)
    return seeds, logits.softmax(dim=1), present


def region_map(seeds: NDArray, probs: NDArray, present: NDArray, *, fg_thresh: float, bg_thresh: float) -> NDArray:
    """What components are sought in, (H, W): the sure class of a pixel, else its seed, else 255."""
    classes = np.flatnonzero(present)
    among = probs[classes]
    winner, highest = classes[among.argmax(axis=0)], among.max(axis=0)
    sure = (highest > fg_thresh) & ((winner != 0) | (highest > bg_thresh))
    return np.where(sure, winner, seeds).astype(np.uint8)


def by_components(batch: tuple[Tensor, ...], components: Components) -> NDArray[np.uint8]:
    """Growth by labelling the components of each class in each image."""
    grown = []
    for seeds, probs, present in zip(*(part.numpy() for part in batch), strict=True):
        regions, result = region_map(seeds, probs, present, **PAPER), seeds.copy()
        for number in np.flatnonzero(present):
            labels = components(regions == number)
            kept = np.zeros(labels.max() + 1, bool)
            kept[labels[(seeds == number) & (regions == number)]] = True
            kept[0] = False
            result[kept[labels] & (seeds == UNLABELLED)] = number
        grown.append(result)
    return np.stack(grown)


def opencv_components(mask: NDArray[np.bool_]) -> NDArray:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]


def pixel_by_pixel(batch: tuple[Tensor, ...]) -> NDArray[np.uint8]:
    """The released algorithm in plain Python: a map of classes, its components one pixel at a time."""
    results = []
    for seeds, probs, present in zip(*(part.tolist() for part in batch), strict=True):
        height, width = len(seeds), len(seeds[0])
        classes = [number for number, tagged in enumerate(present) if tagged]
        label_map = [row[:] for row in seeds]
        for y in range(height):
            for x in range(width):
                best = max(classes, key=lambda number: probs[number][y][x])  # noqa: B023
                value = probs[best][y][x]
                if value > PAPER["fg_thresh"] and (best != 0 or value > PAPER["bg_thresh"]):
                    label_map[y][x] = best
        grown = [row[:] for row in seeds]
        visited = [[False] * width for _ in range(height)]
        for number in classes:
            for y in range(height):
                for x in range(width):
                    if visited[y][x] or label_map[y][x] != number:
                        continue
                    region, waiting, seeded = [], [(y, x)], False
                    visited[y][x] = True
                    while waiting:
                        row, column = waiting.pop()
                        region.append((row, column))
                        seeded = seeded or seeds[row][column] == number
                        for r in range(max(row - 1, 0), min(row + 2, height)):
                            for c in range(max(column - 1, 0), min(column + 2, width)):
                                if not visited[r][c] and label_map[r][c] == number:
                                    visited[r][c] = True
                                    waiting.append((r, c))
                    if seeded:
                        for row, column in region:
                            if seeds[row][column] == UNLABELLED:
                                grown[row][column] = number
        results.append(grown)
    return np.array(results, np.uint8)


def ours(batch: tuple[Tensor, ...]) -> NDArray[np.uint8]:
    grown = grow(*batch, **PAPER)
    if grown.is_cuda:
        torch.cuda.synchronize()
    return grown


@click.command()
@click.option("--repeats", default=7, show_default=True)
def main(repeats: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    figures = {}
    table = Table("20 images, 21 classes", "side", "median, ms", "min", "max", "times slower")
    for side in (41, 321):
        batch = example(side)
        sides = {"ours, CPU": ours, "OpenCV components": lambda batch: by_components(batch, opencv_components)}
        try:
            from scipy import ndimage

            eight = np.ones((3, 3))
            sides["SciPy components"] = lambda batch: by_components(batch, lambda mask: ndimage.label(mask, eight)[0])  # noqa: B023
        except ImportError:
            print("SciPy is not installed: left out", file=sys.stderr)
        if side == 41:
            sides["pixel by pixel in Python"] = pixel_by_pixel
        if torch.cuda.is_available():
            on_device = tuple(part.cuda() for part in batch)
            sides[f"ours, {torch.cuda.get_device_name()}"] = lambda _: ours(on_device).cpu().numpy()  # noqa: B023
        expected = ours(batch).numpy()
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for name, side_function in sides.items():
            if not np.array_equal(np.asarray(side_function(batch)), expected):
                raise RuntimeError(f"{name} disagrees at {side} x {side}")
        for _ in range(repeats):
            for name, side_function in sides.items():
                began = time.perf_counter()
                side_function(batch)
                seconds[name].append(time.perf_counter() - began)
        fastest = statistics.median(seconds["ours, CPU"])
        for name, values in seconds.items():
            median = statistics.median(values)
            cells = (f"{1000 * value:.1f}" for value in (median, min(values), max(values)))
            table.add_row(name, str(side), *cells, f"{median / fastest:.1f}")
            figures[f"{name} {side}"] = {"median_s": median, "min_s": min(values), "max_s": max(values)}
    Console().print(table)
    write_json(RESULTS / "growth.json", {"torch": torch.__version__, "sides": figures})


if __name__ == "__main__":
    main()
