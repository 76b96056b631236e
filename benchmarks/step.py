"""Where a DSRG training step goes: loading, forward, backward and optimizer, CRF, growth; with and without supervision.

    python -m benchmarks.step [--recipe recipes/voc2012-mobilenet.yaml] [--batch 4] [--rounds 2] [--quick]

Images of noise of 500 x 375 pixels, random weights; size, batch, precision, CRF and growth are the recipe's. "Without"
is the same network and loss on static seeds without boundary loss, so without CRF and growth; both kinds of step take
turns in one run. Loading is measured alone, in one thread: from files, and from the cache of decoded images. The floor
is the step's convolutions at the rate of a large one. The classifier's steps are whole ones of the recipe's batch, as
the stage `train_cam` does them. Processor time is this process's alone: all of the step's with DSRG_WORKERS=1, else
without the CRF's. Prints a table, writes JSON.
"""

import tempfile
import time
from collections import defaultdict
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks import RESULTS
from benchmarks.floors import operations, rates
from benchmarks.full_size import drawn_seeds, noise_images
from benchmarks.timing import COLUMNS, Runs, now, ratio, write_figures
from dsrg.data.batches import Batch, Batches
from dsrg.data.classes import VOC_CLASSES
from dsrg.method.growing import grow
from dsrg.method.losses import boundary_loss, seeding_loss, smoothed_softmax
from dsrg.networks.weights import untrained
from dsrg.params import Params, load_params
from dsrg.runtime import workers
from dsrg.training.cam import cam_criterion
from dsrg.training.dsrg import Supervisor
from dsrg.training.fit import fit, set_up_torch
from dsrg.training.optim import build_optimizer


class Laps:
    """Timings of the parts of a step, by name; the device has finished a part when its lap ends."""

    def __init__(self) -> None:
        self.runs: dict[str, Runs] = defaultdict(Runs)
        self.start()

    def start(self) -> None:
        self.first = self.last = self._clocks()

    def end(self, name: str, *, whole: bool = False) -> None:
        """File the time since the last lap, or the `whole` since the start, under a name."""
        self.last, since = self._clocks(), self.first if whole else self.last
        self.runs[name].wall.append(self.last[0] - since[0])
        self.runs[name].processor.append(self.last[1] - since[1])

    def _clocks(self) -> tuple[float, float]:
        return now(), time.process_time()


class Step:
    """The recipe's training step in parts, as `dsrg.training.fit` and `dsrg_criterion` do it."""

    def __init__(self, params: Params, device: torch.device) -> None:
        self.settings, self.device = params.dsrg, device
        set_up_torch(params.seed)
        segmenter = untrained(params, "dsrg", classes=len(VOC_CLASSES))
        self.segmenter = segmenter.to(device, memory_format=torch.channels_last).train()
        self.optim = build_optimizer(self.segmenter, self.settings.optimizer)
        self.supervisor = Supervisor(crf=params.crf.train, grow=params.grow, boundary_loss=True)

    def run(self, batch: Batch, laps: Laps, *, kind: str) -> None:
        """One step of a kind, "with" or "without" supervision."""
        supervisor, settings = self.supervisor, self.settings
        laps.start()
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            logits = self.segmenter(batch.images).float()
        probs = smoothed_softmax(logits, min_prob=settings.min_prob)
        laps.end(f"forward, {kind}")
        labels, loss = batch.labels, 0
        if kind == "with":
            with torch.no_grad():
                crf_probs = supervisor.crf_probs(batch.images, probs)
                laps.end("CRF")
                thresholds = {"fg_thresh": supervisor.grow.fg_thresh, "bg_thresh": supervisor.grow.bg_thresh}
                deciding = supervisor.growth_probs(probs, crf_probs, batch.present)
                labels = grow(batch.labels, deciding, batch.present, **thresholds)
                laps.end("growth")
            clip, gradient = settings.boundary_clip, settings.crf_gradient
            loss = boundary_loss(probs, crf_probs, ratio_clip=clip, crf_gradient=gradient)
        loss = loss + seeding_loss(probs, labels, balanced=settings.seed_loss == "balanced")
        self.optim.zero_grad(set_to_none=True)
        loss.backward()
        self.optim.step()
        laps.end(f"backward, {kind}")
        laps.end(f"step, {kind}", whole=True)


def measure(params: Params, *, batch: int, rounds: int, device: torch.device) -> tuple[dict[str, Runs], int]:
    """Timings of each part in some rounds, one step of both kinds each, and the operations of a step."""
    size, laps, step = params.data.size, Laps(), Step(params, device)
    with tempfile.TemporaryDirectory() as folder:
        index = noise_images(Path(folder), 2 * batch)
        options = {"size": size, "batch": batch, "seed": 0, "augment": params.dsrg.augment}
        batches = Batches(index, labels=drawn_seeds(len(index), size), **options)
        for number in range(2):  # an epoch
            laps.start()
            batches[number]
            laps.end("load, from files")
        flops = operations(lambda: step.run(batches[0], Laps(), kind="without"))
        for kind in ("with", "without"):
            step.run(batches[0], Laps(), kind=kind)  # allocates, starts processes
        for number in range(rounds):
            for turn, kind in enumerate(("with", "without")):
                laps.start()
                loaded = batches[2 * number + turn]
                laps.end("load, decoded before")
                step.run(loaded, laps, kind=kind)
    return laps.runs, flops


def measure_classifier(params: Params, *, batch: int, rounds: int) -> Runs:
    """Timings of some steps of the stage `train_cam`, loading included, after a first one, which allocates."""
    cam, size, laps = params.cam, params.data.size, Laps()
    set_up_torch(params.seed)

    def watch(network: nn.Module, done: int) -> None:
        laps.start() if done == 1 else laps.end("step")

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        index = noise_images(root, 2 * batch)
        options = {"size": size, "batch": batch, "seed": params.seed, "augment": cam.augment}
        fit(
            untrained(params, "cam", classes=len(VOC_CLASSES)),
            cam_criterion(cam),
            Batches(index, labels=None, **options),
            cam.model_copy(update={"steps": rounds + 1}),
            name="train_cam",
            scratch=root,
            fingerprint="",
            curves=root / "curves.tsv",
            on_step_end=watch,
        )
    return laps.runs["step"]


@click.command()
@click.option("--recipe", default="recipes/voc2012-mobilenet.yaml", show_default=True)
@click.option("--batch", type=click.IntRange(min=1), help="Images of a DSRG step, if not the recipe's.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--quick", is_flag=True, help="The demo's network, two images once: to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), help="The JSON file; benchmarks/results/step-RECIPE.json.")
def main(recipe: str, batch: int | None, rounds: int, quick: bool, out: Path | None) -> None:
    recipe = "params.yaml" if quick else recipe
    name, params = Path(recipe).stem, load_params(recipe)
    cam_batch = 2 if quick else params.cam.batch
    batch, rounds = (2, 1) if quick else (batch or params.dsrg.batch, rounds)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device_rates = rates(device, quick=quick)
    runs, flops = measure(params, batch=batch, rounds=rounds, device=device)
    cam_step = measure_classifier(params, batch=cam_batch, rounds=rounds)
    cam_figures = {"batch": cam_batch, "precision": params.cam.precision, **cam_step.figures()}
    floor = flops / device_rates[f"{params.dsrg.precision}_flop_per_s"]
    parts = {part: run.figures() for part, run in sorted(runs.items())}
    table = Table("part", *COLUMNS, "images/s", title=f"{name}, {batch} x {params.data.size} px")
    for part, run in sorted(runs.items()):
        table.add_row(part, *run.cells(), f"{batch / parts[part]['median_s']:.0f}")
    both = runs["step, with"], runs["step, without"]
    times, work = ratio(*(run.wall for run in both)), ratio(*(run.processor for run in both))
    cells = (f"{value:.2f}" for value in (*times.values(), work["median"], work["min"]))
    table.add_row("step, with over without", *cells)
    table.add_row("floor of a step", f"{1e3 * floor:.0f}")
    speed = cam_batch / cam_figures["median_s"]
    table.add_row(f"classifier's step, {cam_batch} images", *cam_step.cells(), f"{speed:.0f}")
    Console().print(table)
    figures = {"batch": batch, "size": params.data.size, "precision": params.dsrg.precision, "parts": parts}
    figures |= {"with_over_without": times, "with_over_without_processor": work}
    figures |= {"flop": flops, "rates": device_rates, "floor_s": floor, "cam_step": cam_figures}
    write_figures(out or RESULTS / f"step-{name}.json", {"workers": workers.worker_count(), **figures})


if __name__ == "__main__":
    main()
