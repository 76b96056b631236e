"""The paper's networks at their real size: one DSRG training step and one evaluation image, random weights, no data.

    python -m benchmarks.full_size [--recipe recipes/voc2012-vgg16.yaml]... [--quick]

The training step is that of the stage `train_dsrg` with the recipe's image size, batch, losses, CRF and growth, on
images of noise that are all tagged with two classes; evaluation is one image of 500 x 375 at the recipe's scales with
the full-size CRF. Each recipe runs in a process of its own, whose peak memory is reported. Prints a table, writes JSON.
"""

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.timing import peak_bytes, write_figures
from dsrg.data.classes import VOC_CLASSES
from dsrg.data.index import Index, present_from_tags
from dsrg.errors import InputError
from dsrg.files import sha256
from dsrg.inference.predict import predictions
from dsrg.method.grid import UNLABELED, grid_size
from dsrg.networks.weights import untrained
from dsrg.params import load_params
from dsrg.runtime import workers
from dsrg.training.dsrg import Supervisor, dsrg_criterion
from dsrg.training.fit import batches_of, fit, set_up_torch

RECIPES = ["recipes/voc2012-vgg16.yaml", "recipes/voc2012-resnet101.yaml"]
STEPS = 2  # the first also allocates and compiles kernels


def noise_images(root: Path, count: int) -> Index:
    """JPEGs of 500 x 375 pixels on disk, tagged with two classes."""
    rng = np.random.default_rng(0)
    ids = [f"noise{row}" for row in range(count)]
    for image_id in ids:
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"{image_id}.jpg"), cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC))
    present = present_from_tags([VOC_CLASSES[2:4]] * count, VOC_CLASSES)
    sides = np.full(count, 375, np.int32), np.full(count, 500, np.int32)
    paths = [f"{image_id}.jpg" for image_id in ids]
    return Index(ids, ["train"] * count, paths, *sides, present, [sha256(root / path) for path in paths], root)


def first_jpegs(folder: Path, count: int) -> list[Path]:
    """The first JPEGs of a folder. Raises InputError if they are too few."""
    paths = sorted(folder.glob("*.jpg"))[:count]
    if len(paths) < count:
        raise InputError(f"--images {folder}: expected {count} files *.jpg or more, found {len(paths)}")
    return paths


def drawn_seeds(count: int, size: int) -> NDArray[np.uint8]:
    """Seeds (count, h, w) of such images at a training square of `size` pixels, six in ten cells unlabeled."""
    kinds, grid = np.array([0, 3, 4, UNLABELED], np.uint8), grid_size(size)
    return np.random.default_rng(1).choice(kinds, (count, grid, grid), p=[0.2, 0.1, 0.1, 0.6])


def measure(recipe: str) -> dict:
    """Seconds of the second training step and of one evaluation image, peak GiB, and what came out."""
    params = load_params(recipe)
    dsrg, size = params.dsrg, params.data.size
    set_up_torch(0)
    with tempfile.TemporaryDirectory() as folder:
        index = noise_images(Path(folder), dsrg.batch)
        batches = batches_of(params, "dsrg", index, labels=drawn_seeds(len(index), size))
        supervisor = Supervisor(crf=params.crf.train, grow=params.grow, boundary_loss=dsrg.boundary_loss)
        ends, losses = [time.perf_counter()], []
        objective = dsrg_criterion(dsrg, supervisor=supervisor)

        def watched(*arguments):
            loss, values = objective(*arguments)
            losses.append(float(loss.detach()))
            return loss, values

        segmenter = fit(
            untrained(params, "dsrg", classes=len(VOC_CLASSES)),
            watched,
            batches,
            dsrg.model_copy(update={"steps": STEPS}),
            name=Path(recipe).stem,
            scratch=Path(folder),
            fingerprint="",
            curves=Path(folder) / "curves.tsv",
            on_step_end=lambda network, step: ends.append(time.perf_counter()),
        )
        training_peak = peak_bytes() / 2**30
        image = index.image(0)
        began = time.perf_counter()
        kernel = params.crf.test
        (found,) = predictions(segmenter, [image], None, params.evaluate, size=size, kernel=kernel)
        seconds = time.perf_counter() - began
    workers.pool().shutdown()  # a process that has processes of its own does not end before them
    if not (np.isfinite(losses).all() and found.labels.shape == image.shape[:2]):
        raise RuntimeError(f"{recipe}: losses {losses}, label map {found.labels.shape}")
    return {
        "batch": dsrg.batch,
        "size": size,
        "precision": dsrg.precision,
        "parameters": sum(parameter.numel() for parameter in segmenter.parameters()),
        "losses": losses,
        "step_seconds": round(ends[-1] - ends[-2], 1),
        "step_peak_gib": round(training_peak, 1),
        "image_seconds": round(seconds, 1),
        "peak_gib": round(peak_bytes() / 2**30, 1),
    }


@click.command()
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, show_default=True)
@click.option("--quick", is_flag=True, help="The demo's network: to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "full_size.json", help="The JSON file.")
def main(recipes: tuple[str, ...], quick: bool, out: Path) -> None:
    table = Table("recipe", "parameters", "batch", "step, s", "its peak, GiB", "image, s", "losses")
    figures = {}
    for recipe in ["params.yaml"] if quick else recipes:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
            found = figures[Path(recipe).stem] = executor.submit(measure, recipe).result()
        cells = (
            f"{found['parameters'] / 1e6:.0f} M",
            f"{found['batch']} x {found['size']} px",
            *(str(found[key]) for key in ("step_seconds", "step_peak_gib", "image_seconds")),
        )
        table.add_row(Path(recipe).stem, *cells, ", ".join(f"{loss:.3f}" for loss in found["losses"]))
    Console().print(table)
    write_figures(out, {"recipes": figures})


if __name__ == "__main__":
    main()
