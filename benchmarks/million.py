"""What grows with the number of images: memory, time and bytes on disk of everything that a stage keeps of each image.

    python -m benchmarks.million [--images 10000]... [--part index]...

A generated index of 80 classes and arrays far smaller than real ones (maps of 9 x 9, label maps of 16 x 16), so that
what is left is the cost of an image as such. Every part runs in a process of its own; its memory is what the process
took at most, less what it had when it began. Prints a table, writes JSON.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.timing import peak_bytes, write_figures
from dsrg.artifacts.label_folder import LabelFolder, written_labels
from dsrg.artifacts.seeds_h5 import SeedRow, read_seeds, write_seeds
from dsrg.data.batches import batch_indices
from dsrg.data.index import Index, read_index, write_index
from dsrg.data.palette import label_png
from dsrg.inference.preprocess import SHARD
from dsrg.runtime.launcher import WorkShard
from dsrg.runtime.resumable import resumable_rows
from dsrg.sources.folder import scan_folder

CLASSES = [f"class {number}" for number in range(80)]
GRID, SIDE, BATCH = 9, 16, 20


def index_of(images: int) -> Index:
    """Images as COCO names them; a thousand files stand for all."""
    rows = np.arange(images)
    present = np.zeros((images, len(CLASSES) + 1), bool)
    present[:, 0] = present[rows, rows % 80 + 1] = present[rows, rows * 7 % 80 + 1] = True
    files = [hashlib.sha256(bytes([file % 256])).hexdigest() for file in range(1000)]
    return Index(
        [f"COCO_train2014_{row:012d}" for row in rows],
        ["val" if row % 20 == 0 else "train" for row in rows],
        [f"train2014/COCO_train2014_{row % 1000:012d}.jpg" for row in rows],
        np.full(images, 480, np.int32),
        np.full(images, 640, np.int32),
        present,
        [files[row % 1000] for row in rows],
    )


def table_written(folder: Path, images: int) -> None:
    """A table of tags and its images, a thousand in a folder, all of them links to one file."""
    with open(folder / "tags.csv", "w") as file:
        file.write("image,tags\n")
        for row in range(images):
            path = folder / f"train{row // 1000:04d}" / f"COCO_train2014_{row:012d}.png"
            if row % 1000 == 0:
                path.parent.mkdir()
                path.write_bytes(label_png(np.zeros((SIDE, SIDE), np.uint8)))
                first = path
            else:
                path.hardlink_to(first)
            file.write(f"{path.relative_to(folder)},{CLASSES[row % 80]}|{CLASSES[row * 7 % 80]}\n")


def table(folder: Path, images: int) -> None:
    """Read the table and find its images, as `prepare` does before it opens them."""
    found = scan_folder(folder, train="train", val=None, table="tags.csv", separator="|")
    if found.problems or found.faults or len(found.records) != images:
        raise RuntimeError(f"{len(found.records)} images found: {found.problems}")


def written(folder: Path, images: int) -> None:
    write_index(folder / "index.csv", index_of(images), CLASSES)


def index(folder: Path, images: int) -> None:
    """Read the index, as every stage does, and take the training images."""
    read_index(folder / "index.csv", CLASSES).split("train")


def order(folder: Path, images: int) -> None:
    """The first hundred batches of a training and a hundred of its second epoch."""
    for start in (0, images // BATCH):
        for step in range(start, start + 100):
            batch_indices(step, images=images, batch=BATCH, seed=0)


def seeds_written(folder: Path, images: int) -> None:
    def rows() -> Iterator[SeedRow]:
        rng = np.random.default_rng(0)
        present = np.zeros(len(CLASSES) + 1, bool)
        present[:3] = True
        for row in range(images):
            seeds = rng.integers(0, 3, (GRID, GRID), dtype=np.uint8)
            maps = rng.random((3, GRID, GRID), np.float32)
            yield SeedRow(f"COCO_train2014_{row:012d}", present, seeds, maps[0], maps[1:], np.array([1, 2], np.uint8))

    write_seeds(folder / "seeds.h5", rows(), count=images, grid=GRID, classes=CLASSES, params="{}")


def seeds(folder: Path, images: int) -> None:
    """Open the seeds, as training does, in the order of other ids, and read a thousand."""
    stored = read_seeds(folder / "seeds.h5", classes=CLASSES, grid=GRID)
    found = stored.in_order(stored.ids[1:])
    for row in range(0, images - 1, images // 1000):
        found[row]


def kept_work(folder: Path, images: int) -> None:
    """Label maps kept as the stages do, by the second of two processes and the first, which puts them together."""

    def make(rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        png = np.frombuffer(label_png(np.zeros((SIDE, SIDE), np.uint8)), np.uint8)
        return ({"labels": png} for _ in rows)

    for number in (1, 0):
        share = WorkShard(folder / "scratch", number, 2)
        deque(resumable_rows(make, share, total=images, shard=SHARD), maxlen=0)


def write_labels(folder: Path, images: int, *, format: str) -> None:
    rng = np.random.default_rng(0)
    with written_labels(folder / format, format=format) as add:
        for row in range(images):
            add(f"COCO_train2014_{row:012d}", label_png(rng.integers(0, 3, (SIDE, SIDE), dtype=np.uint8)))


def read_labels(folder: Path, images: int, *, format: str) -> None:
    """Open the label maps, as retraining does, and read a thousand."""
    names = (f"COCO_train2014_{row:012d}" for row in range(images))
    found = LabelFolder(folder / format, names, stage_name="make_pseudo_labels")
    for row in range(0, images, images // 1000):
        found[row]


PARTS: dict[str, Callable[[Path, int], None]] = {
    **{part.__name__: part for part in (table_written, table, written, index, order, kept_work, seeds_written, seeds)},
    **{"labels_written": partial(write_labels, format="png"), "labels": partial(read_labels, format="png")},
    **{"tars_written": partial(write_labels, format="shards"), "tars": partial(read_labels, format="shards")},
}


def measured(part: str, folder: Path, images: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.million", "--case", part, str(folder), str(images)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@click.command()
@click.option("--images", type=int, multiple=True, default=(10_000, 100_000, 1_000_000), show_default=True)
@click.option("--part", "parts", type=click.Choice([*PARTS]), multiple=True, default=[*PARTS])
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "million.json", help="The JSON file.")
@click.option("--case", nargs=3, type=(str, Path, int), hidden=True)
def main(images: tuple[int, ...], parts: list[str], out: Path, case: tuple[str, Path, int] | None) -> None:
    if case is not None:
        part, folder, count = case
        before, began, processor = peak_bytes(), time.perf_counter(), time.process_time()
        PARTS[part](folder, count)
        seconds = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - processor}
        print(json.dumps({**seconds, "bytes_an_image": (peak_bytes() - before) / count}))
        return
    table, figures = Table("part", "images", "seconds", "processor", "memory, bytes an image"), []
    for count in images:
        with tempfile.TemporaryDirectory() as folder:
            for part in parts:
                found = measured(part, Path(folder), count)
                cells = f"{found['seconds']:.1f}", f"{found['processor_seconds']:.1f}", f"{found['bytes_an_image']:.0f}"
                table.add_row(part, f"{count:,}", *cells)
                figures.append({"part": part, "images": count, **found})
    Console().print(table)
    write_figures(out, {"figures": figures})


if __name__ == "__main__":
    main()
