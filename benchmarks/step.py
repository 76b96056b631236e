"""Where a DSRG training step goes: loading, forward, backward and optimiser, CRF, growth; with and without supervision.

    python -m benchmarks.step [--recipe recipes/voc2012-mobilenet.yaml]

Images of noise of 500 x 375 pixels, random weights; size, batch, precision, CRF and growth are the recipe's. "Without"
is the same network and loss on static seeds without boundary loss, so without CRF and growth; both kinds of step are
interleaved in one run. Median, minimum and maximum; loading is measured alone, in one thread, decoded images cached.
Writes benchmarks/results/step-RECIPE.json.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.full_size import noise_images
from dsrg.data.batches import Batches
from dsrg.data.classes import VOC_CLASSES
from dsrg.files import write_json
from dsrg.method.crf import clamped, dense_crf, unary_energies
from dsrg.method.growing import grow
from dsrg.method.losses import boundary_loss, seeding_loss, smoothed_softmax
from dsrg.networks.network import grid_size
from dsrg.networks.weights import initial_segmenter
from dsrg.params import load_params
from dsrg.training.fit import set_up_torch
from dsrg.training.optimisers import build_optimiser, parameter_groups


@click.command()
@click.option("--recipe", default="recipes/voc2012-mobilenet.yaml", show_default=True)
@click.option("--repeats", default=7, show_default=True)
def main(recipe: str, repeats: int) -> None:
    params = load_params(recipe)
    dsrg, size, kernel = params.dsrg, params.data.size, params.crf.train.model_dump()
    unary, min_prob = kernel.pop("unary"), kernel.pop("min_prob")
    thresholds = {"fg_thresh": params.grow.fg_thresh, "bg_thresh": params.grow.bg_thresh}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_up_torch(0)
    network = params.network.model_dump(exclude={"weights"})
    segmenter = initial_segmenter(classes=len(VOC_CLASSES), weights=None, **network)
    segmenter = segmenter.to(device, memory_format=torch.channels_last).train()
    options = dsrg.optimiser.model_dump()
    groups = parameter_groups(segmenter, **{key: options[key] for key in ("lr", "head_lr", "bias_lr", "weight_decay")})
    optim = build_optimiser(groups, **{key: options[key] for key in ("name", "momentum", "beta2")})
    seconds: dict[str, list[float]] = defaultdict(list)
    clock = [0.0]

    def lap(name: str | None) -> None:
        """File the time since the last lap under a name, or drop it."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if name is not None:
            seconds[name].append(now - clock[0])
        clock[0] = now

    with tempfile.TemporaryDirectory() as folder:
        index = noise_images(Path(folder), 2 * dsrg.batch)
        grid = grid_size(size)
        seeds = np.random.default_rng(1).choice([0, 3, 4, 255], (len(index), grid, grid), p=[0.2, 0.1, 0.1, 0.6])
        augment = dsrg.augment.model_dump()
        options = {"root": Path(folder), "size": size, "batch": dsrg.batch, "seed": 0, **augment}
        batches = Batches(index, labels=seeds.astype(np.uint8), **options)
        for step in range(2 * (repeats + 1)):
            warm, supervised = step >= 2, step % 2 == 0
            kind = "with" if supervised else "without"
            lap(None)
            batch = batches[step]
            lap("load" if step >= 4 else None)  # all images are decoded by then
            batch = batch.to(device)
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=dsrg.precision == "bf16"):
                logits = segmenter(batch.images).float()
            probs = smoothed_softmax(logits, min_prob=dsrg.min_prob)
            lap(f"forward, {kind}" if warm else None)
            labels, loss = batch.labels, 0
            if supervised:
                with torch.no_grad():
                    energies = unary_energies(probs, unary=unary, min_prob=min_prob)
                    crf_probs = clamped(dense_crf(batch.images[:, :, ::8, ::8], energies, **kernel), min_prob=min_prob)
                    lap("CRF" if warm else None)
                    labels = grow(batch.labels, crf_probs, batch.present, **thresholds)
                    lap("growth" if warm else None)
                loss = boundary_loss(probs, crf_probs, ratio_clip=dsrg.boundary_clip, crf_gradient=False)
            loss = loss + seeding_loss(probs, labels, balanced=dsrg.seed_loss == "balanced")
            optim.zero_grad(set_to_none=True)
            loss.backward()
            optim.step()
            lap(f"loss, backward, optimiser, {kind}" if warm else None)
            if warm:
                seconds[f"step {kind}"].append(time.perf_counter() - began)
    name = Path(recipe).stem
    table = Table(f"{name}, batch {dsrg.batch}, {device}", "median, s", "min", "max")
    figures = {}
    for part, values in sorted(seconds.items()):
        figures[part] = {"median_s": statistics.median(values), "min_s": min(values), "max_s": max(values)}
        table.add_row(part, *(f"{value:.4f}" for value in figures[part].values()))
    ratio = figures["step with"]["median_s"] / figures["step without"]["median_s"]
    table.add_row("step with CRF and growth / without", f"{ratio:.2f}", "", "")
    Console().print(table)
    card = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    machine = {"device": card, "torch": torch.__version__}
    write_json(RESULTS / f"step-{name}.json", {"machine": machine, "ratio": ratio, "parts": figures})


if __name__ == "__main__":
    main()
