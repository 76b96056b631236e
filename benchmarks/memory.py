"""Peak memory of the full-size CRF: each engine alone, and predictions of large images as the stages make them.

    python -m benchmarks.memory [--quick]

Images of noise, the worst case: hardly two pixels share a vertex of the lattice. 21 classes, the CRF of params.yaml
with one iteration (more take time, not memory), on the CPU. The stages' predictions come from a network with random
weights, over all worker processes; images are larger than `max_side`, so they are worked on smaller. Every case runs in
processes of its own, whose memory is looked at ten times a second: the sum of their proportional set size (Linux: a
page that several share counts once). The floor is an image's energies and probabilities. Prints a table, writes JSON.
"""

import sys
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.stages import measured
from benchmarks.timing import write_figures
from dsrg.inference import released
from dsrg.inference.predict import predictions
from dsrg.method.crf import dense_crf
from dsrg.networks.weights import untrained
from dsrg.params import Params, PredictParams, load_params
from dsrg.runtime import workers

CLASSES = 21
STAGES = "predictions"  # of several images
ENGINES = ("pydensecrf", "lattice")
SIZES = [(500, 375), (1024, 768), (2000, 1500)]  # width, height: VOC's, max_side, a photograph


def noise(width: int, height: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def work(what: str, width: int, height: int, params: Params) -> None:
    """One case, in a process that does nothing else."""
    kernel = params.crf.test.model_copy(update={"iterations": 1})
    if what == STAGES:
        settings = PredictParams(**released.PREDICT)
        segmenter = untrained(params, "dsrg", classes=CLASSES - 1).eval()
        images = noise(width, height, 4 * workers.worker_count())
        for _ in predictions(segmenter, images, None, settings, size=params.data.size, kernel=kernel):
            pass
        return
    images = torch.from_numpy(np.stack(noise(width, height, 1))).movedim(3, 1)
    dense_crf(images, torch.rand(1, CLASSES, height, width), **kernel.kernel, engine=what)


@click.command()
@click.option("--quick", is_flag=True, help="One small case: to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "memory.json", help="The JSON file.")
@click.option("--case", nargs=3, type=(str, int, int), hidden=True)
def main(quick: bool, out: Path, case: tuple[str, int, int] | None) -> None:
    if case is not None:
        work(*case, load_params())
        return
    cases = [(engine, *size) for size in SIZES for engine in ENGINES] + [(STAGES, *SIZES[-1])]
    table, figures = Table("CRF", "image", "seconds", "peak GiB", "floor"), {}
    for what, width, height in [("lattice", 40, 30)] if quick else cases:
        command = [sys.executable, "-m", "benchmarks.memory", "--case", what, str(width), str(height)]
        seconds, peak = measured(command, every=0.1)
        floor = 2 * 4 * CLASSES * width * height / 2**30
        table.add_row(what, f"{width} x {height}", f"{seconds:.0f}", f"{peak:.2f}", f"{floor:.2f}")
        figures[f"{what} {width} x {height}"] = {"seconds": seconds, "peak_gib": peak, "floor_gib": floor}
    Console().print(table)
    write_figures(out, {"classes": CLASSES, "workers": workers.worker_count(), "cases": figures})


if __name__ == "__main__":
    main()
