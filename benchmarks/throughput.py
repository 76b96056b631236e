"""Images per second of seeds, of pseudo labels and of the loader, in one process and in two.

    python -m benchmarks.throughput [--recipe recipes/voc2012-mobilenet.yaml] [--images FOLDER] [--count 64] [--quick]

Some images, the first JPEGs of a folder or drawn ones, tagged with one to three random classes. Networks, scales,
saliency and CRFs are the recipe's, the weights random. One process is one core: one worker (DSRG_WORKERS) and one
thread of torch; two have two of each. Both take turns in one run. Seeds are written to an HDF5 file, pseudo labels to
PNGs. The floor is the networks' convolutions alone, at the rate of a large one in fp32 on all cores; the loader's,
which computes none, reading decoded pixels and writing squares at the rate of a copy. Prints a table, writes JSON.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.floors import operations, rates
from benchmarks.full_size import first_jpegs, noise_images
from benchmarks.timing import now, ratio, spread, write_figures
from dsrg.artifacts.label_folder import written_labels
from dsrg.artifacts.seeds_h5 import write_seeds
from dsrg.data.batches import Batches
from dsrg.data.classes import VOC_CLASSES
from dsrg.data.images import check_image
from dsrg.data.index import Index, present_from_tags
from dsrg.data.palette import label_png
from dsrg.inference.label_maps import predicted_labels
from dsrg.inference.seeding import seed_rows
from dsrg.method.grid import grid_size
from dsrg.networks.weights import untrained
from dsrg.params import Params, load_params
from dsrg.runtime.workers import threaded_map
from dsrg.training.fit import set_up_torch

Work = Callable[[Index], object]


def photographs(folder: Path, count: int) -> Index:
    """The `first_jpegs` of a folder, each tagged with one to three classes."""
    paths, rng = first_jpegs(folder, count), np.random.default_rng(0)
    tags = [rng.choice(VOC_CLASSES, rng.integers(1, 4), replace=False).tolist() for _ in paths]
    facts = [check_image(path, pixels_max=10**8) for path in paths]
    heights, widths = (np.array([getattr(one, side) for one in facts], np.int32) for side in ("height", "width"))
    ids, checksums = [path.stem for path in paths], [one.checksum for one in facts]
    present = present_from_tags(tags, VOC_CLASSES)
    return Index(ids, ["train"] * count, [path.name for path in paths], heights, widths, present, checksums, folder)


def works(params: Params, folder: Path, device: torch.device) -> dict[str, Work]:
    """What is timed, by name; `folder` takes what it writes."""
    set_up_torch(params.seed)
    size = params.data.size
    segmenter = untrained(params, "dsrg", classes=len(VOC_CLASSES)).eval().to(device)
    classifier = untrained(params, "cam", classes=len(VOC_CLASSES)).eval().to(device)

    def seeds(index: Index) -> None:
        rows = seed_rows(classifier, index, size=size, seeds=params.seeds, saliency=params.saliency)
        grid = grid_size(size)
        write_seeds(folder / "seeds.h5", rows, count=len(index), grid=grid, classes=VOC_CLASSES, params="{}")

    labeling = {"size": size, "kernel": params.crf.test}

    def pseudo_labels(index: Index) -> None:
        maps = (one.labels for one in predicted_labels(segmenter, index, params.pseudo_labels, **labeling))
        with written_labels(folder / "labels", format=params.pseudo_labels.format) as add:
            for image_id, png in zip(index.ids, threaded_map(label_png, maps), strict=True):
                add(image_id, png)

    def loader(index: Index) -> None:
        """An epoch from files: nothing is kept, as where the images are more than memory holds."""
        options = {"size": size, "seed": params.seed, "augment": params.dsrg.augment}
        batches = Batches(index, labels=None, batch=min(params.dsrg.batch, len(index)), cache_bytes=0, **options)
        for _ in batches.ahead(0, len(index) // batches.batch):
            pass

    return {"seeds": seeds, "pseudo labels": pseudo_labels, "loader": loader}


@contextmanager
def cores(count: int) -> Iterator[None]:
    """So many workers and threads meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with patch.dict(os.environ, DSRG_WORKERS=str(count)):
            yield
    finally:
        torch.set_num_threads(threads)


def measure(work: Work, index: Index, *, counts: tuple[int, ...], rounds: int) -> dict[int, list[float]]:
    """Seconds of the work on all images with so many cores each, in turn, after a few images that do not count."""
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(rounds + 1):
        for count, found in seconds.items():
            with cores(count):
                began = now()
                work(index if number else index.pick(range(min(8, len(index)))))
                if number:
                    found.append(now() - began)
    return seconds


@click.command()
@click.option("--recipe", default="recipes/voc2012-mobilenet.yaml", show_default=True)
@click.option("--images", "photos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="JPEGs to use.")
@click.option("--count", type=click.IntRange(min=1), default=64, show_default=True, help="Images.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--quick", is_flag=True, help="The demo's networks, four images, one core: to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), help="The JSON; benchmarks/results/throughput-RECIPE.json.")
def main(recipe: str, photos: Path | None, count: int, rounds: int, quick: bool, out: Path | None) -> None:
    recipe = "params.yaml" if quick else recipe
    name, params = Path(recipe).stem, load_params(recipe)
    count, rounds, counts = (4, 1, (1,)) if quick else (count, rounds, (1, 2))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rate = rates(device, quick=quick)
    table = Table(f"images/s, {name}", "cores", "median", "least", "most", "times one core", "of the floor")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        index = photographs(photos, count) if photos else noise_images(Path(folder), count)
        one = index.pick([0])
        for title, work in works(params, Path(folder), device).items():
            with cores(1):
                flop = operations(lambda work=work: work(one))
            seconds = measure(work, index, counts=counts, rounds=rounds)
            moved = 3 * (int(np.mean(index.heights * index.widths)) + params.data.size**2)
            floor = rate["fp32_flop_per_s"] / flop if flop else rate["bytes_per_s"] / moved
            figures[title] = {"flop_per_image": flop, "floor_images_per_s": floor}
            for used, runs in seconds.items():
                rounds_of = spread([count / run for run in runs])
                speed = {key.removesuffix("_s"): value for key, value in rounds_of.items()}
                times = ratio(seconds[1], runs)
                figures[title][f"{used} cores"] = {"images_per_s": speed, "times_one_core": times}
                cells = (f"{value:.1f}" for value in speed.values())
                table.add_row(
                    title, str(used), *cells, f"{times['median']:.2f}", f"{100 * speed['median'] / floor:.0f} %"
                )
    Console().print(table)
    source = "photos" if photos else "drawn"
    figures = {"recipe": name, "images": count, "source": source, "rates": rate, "work": figures}
    write_figures(out or RESULTS / f"throughput-{name}.json", figures)


if __name__ == "__main__":
    main()
