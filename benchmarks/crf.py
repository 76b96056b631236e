"""Time of the CRF's engines, side by side in one run, and how far they are from plain pydensecrf.

    python -m benchmarks.crf [--images data/VOCdevkit/VOC2012/JPEGImages] [--quick]

Plain is what one would write first: pydensecrf in one process, one image at a time. A round runs every engine once, in
turn, so that whatever else the machine does meets all of them. Networks' opinions are smooth random ones; without a
folder the images are drawn. Without pydensecrf the rest is compared with the lattice on the CPU; with a GPU
the lattice runs there too. The floor is the bytes of `floor_bytes` at the rate of a copy. Prints a table, writes JSON.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.floors import copy_rate
from benchmarks.full_size import first_jpegs
from benchmarks.timing import COLUMNS, Runs, in_turn, ratio, write_figures
from dsrg.data.images import read_image
from dsrg.inference.crf import dense_crf_over_workers
from dsrg.method.crf import dense_crf, unary_energies
from dsrg.method.crf_lattice import bilateral_lattice, gaussian_lattice
from dsrg.method.crf_pydensecrf import Kernel, mean_field
from dsrg.params import load_params
from dsrg.runtime.environment import worker_count


@dataclass(frozen=True)
class Case:
    """A batch of images as one use of the CRF sees it; `kernel` names the params: `crf.train` or `crf.test`."""

    name: str
    batch: int
    height: int
    width: int
    classes: int
    kernel: str


CASES = [Case("training step", 20, 41, 41, 21, "train"), Case("whole images", 4, 375, 500, 21, "test")]
QUICK = [Case("few small images", 2, 17, 25, 3, "train")]
ALIKE = [Case("grid", 4, 41, 41, 21, "train"), Case("square", 2, 321, 321, 21, "test")]
# Parameters of other systems, by the names of the params, for engines to agree on: DeepLab v2's, IRN's, a gentle CRF.
OTHERS = {
    "deeplab": (3.0, 1.0, 4.0, 67.0, 3.0),
    "irn": (3.0, 3.0, 10.0, 50.0, 5.0),
    "gentle": (1.0, 3.0, 1.0, 80.0, 13.0),
}


def drawn_images(case: Case) -> list[NDArray[np.uint8]]:
    """Patches of smooth color with noise, (H, W, 3)."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(case.batch):
        patches = rng.integers(0, 256, (6, 8, 3)).astype(np.float32)
        image = cv2.resize(patches, (case.width, case.height), interpolation=cv2.INTER_CUBIC)
        images.append((image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8))
    return images


def images_of(case: Case, folder: Path | None) -> Tensor:
    """uint8 (B, 3, H, W): the `first_jpegs` of a folder, brought to the case's size, or drawn ones."""
    if folder is None:
        images = drawn_images(case)
    else:
        paths, size = first_jpegs(folder, case.batch), (case.width, case.height)
        images = [cv2.resize(read_image(path), size, interpolation=cv2.INTER_AREA) for path in paths]
    return torch.from_numpy(np.stack(images)).movedim(3, 1).contiguous()


def probs_of(case: Case) -> Tensor:
    """Smooth random probabilities, float32 (B, C, H, W), as a network of stride 8 gives them."""
    rng = np.random.default_rng(1)
    grid = rng.normal(0, 2, (case.batch, case.classes, case.height // 8 + 1, case.width // 8 + 1))
    logits = torch.nn.functional.interpolate(
        torch.from_numpy(grid).float(), (case.height, case.width), mode="bilinear", align_corners=True
    )
    return logits.softmax(1)


Engine = Callable[[Tensor, Tensor], Tensor]


class Compared(NamedTuple):
    """run: timings; speed: times the first engine's; distance: of the probabilities from the first engine's."""

    run: Runs
    speed: dict[str, float]
    distance: dict[str, float]


def plain(images: Tensor, energies: Tensor, kernel: dict) -> Tensor:
    """pydensecrf as one would write it first: in this process, image after image."""
    pairs = zip(images.numpy(), energies.numpy(), strict=True)
    return torch.stack([torch.from_numpy(mean_field(image, energy, Kernel(**kernel))) for image, energy in pairs])


def engines(kernel: dict) -> dict[str, Engine]:
    """Title -> engine, those that this machine has; the first is what the others are compared with."""

    def lattice_on(device: str) -> Engine:
        def refine(images: Tensor, energies: Tensor) -> Tensor:
            # results come back to the host, so the device has finished when the clock stops
            return dense_crf(images.to(device), energies.to(device), **kernel, engine="lattice").cpu()

        return refine

    found: dict[str, Engine] = {}
    if find_spec("pydensecrf"):
        found["pydensecrf, plain"] = partial(plain, kernel=kernel)
        processes = f"pydensecrf, {worker_count()} processes"
        found[processes] = lambda images, energies: dense_crf_over_workers(images, energies, **kernel)
    found["lattice, CPU"] = lattice_on("cpu")
    threads = f"lattice, {worker_count()} threads"
    found[threads] = lambda images, energies: dense_crf_over_workers(images, energies, engine="lattice", **kernel)
    if torch.cuda.is_available():
        found[f"lattice, {torch.cuda.get_device_name()}"] = lattice_on("cuda")
    return found


def inputs(case: Case, crf: dict, *, folder: Path | None) -> tuple[Tensor, Tensor, dict]:
    """Images, energies and the kernel's parameters of a case, `crf` being the params `crf.train` or `crf.test`."""
    energies = unary_energies(probs_of(case), unary=crf.get("unary", "logp"), min_prob=crf["min_prob"])
    return images_of(case, folder), energies, {key: crf[key] for key in crf if key not in ("unary", "min_prob")}


def compare(case: Case, crf: dict, *, folder: Path | None, rounds: int) -> dict[str, Compared]:
    """Each engine's seconds a batch, and its distance from the first engine."""
    images, energies, kernel = inputs(case, crf, folder=folder)
    running = engines(kernel)
    results = {title: engine(images, energies) for title, engine in running.items()}
    sides = {title: partial(engine, images, energies) for title, engine in running.items()}
    runs = in_turn(sides, rounds=rounds)
    first = next(iter(results))
    return {
        title: Compared(run, ratio(runs[first].wall, run.wall), distance(results[title], results[first]))
        for title, run in runs.items()
    }


def distance(probs: Tensor, reference: Tensor) -> dict[str, float]:
    """How far two engines are apart: absolute differences of probabilities, share of pixels with the same label."""
    apart = (probs - reference).abs()
    return {
        "mean_difference": float(apart.mean()),
        "greatest_difference": float(apart.max()),
        "same_label": float((probs.argmax(1) == reference.argmax(1)).float().mean()),
    }


def floor_bytes(images: Tensor, energies: Tensor, kernel: dict) -> int:
    """Bytes that the mean field must read and write on its lattices, each value once where it is needed.

    An iteration and lattice: the pixels' values read and the vertices' written, these read and written along each
    direction, read again and the pixels' written.
    """
    gaussian = gaussian_lattice(*images.shape[2:], Kernel(**kernel), device=images.device)
    bilateral = bilateral_lattice(images, Kernel(**kernel))
    pixels = energies.numel() // energies.shape[1]
    passes = sum(
        pixels + (len(lattice.matrices) - 1) * vertices
        for lattice, vertices in ((gaussian, len(images) * gaussian.rows), (bilateral, bilateral.rows))
    )
    return kernel["iterations"] * 2 * 4 * energies.shape[1] * passes


def agreement(cases: list[Case], sets: dict[str, dict], *, folder: Path | None) -> dict[str, dict[str, float]]:
    """Lattice against pydensecrf, one process each, for every case and set of parameters."""
    found = {}
    for case in cases:
        for name, crf in sets.items():
            images, energies, kernel = inputs(case, crf, folder=folder)
            lattice = dense_crf(images, energies, **kernel, engine="lattice")
            found[f"{case.name} {case.height} x {case.width}, {name}"] = distance(
                lattice, plain(images, energies, kernel)
            )
    return found


@click.command()
@click.option("--images", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="JPEGs to use.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--quick", is_flag=True, help="Few small images once: to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "crf.json", help="The JSON file.")
def main(folder: Path | None, rounds: int, quick: bool, out: Path) -> None:
    params = load_params().crf
    cases, rounds = (QUICK, 1) if quick else (CASES, rounds)
    rate, batches, floors = copy_rate(torch.device("cpu"), quick=quick), {}, {}
    for case in cases:
        floor = floor_bytes(*inputs(case, getattr(params, case.kernel).model_dump(), folder=folder)) / rate
        found = compare(case, getattr(params, case.kernel).model_dump(), folder=folder, rounds=rounds)
        title = f"{case.name}: {case.batch} x {case.height} x {case.width}, {case.classes} classes"
        table = Table("engine", *COLUMNS, "speed", "difference", "same label", title=f"{title}; speed: of plain")
        for engine, row in found.items():
            share = f"{100 * row.distance['same_label']:.3f} %"
            table.add_row(
                *(engine, *row.run.cells(), f"{row.speed['median']:.2f}"),
                *(f"{row.distance['mean_difference']:.1e}", share),
            )
        table.add_row("floor", f"{1e3 * floor:.1f}")
        Console().print(table)
        floors[title] = floor
        batches[title] = {
            engine: {**row.run.figures(), "speed": row.speed, **row.distance} for engine, row in found.items()
        }
    alike = {}
    if find_spec("pydensecrf"):
        plain_sets = {name: getattr(params, name).model_dump() for name in ("train", "test")}
        names = ("gaussian_weight", "gaussian_xy", "bilateral_weight", "bilateral_xy", "bilateral_rgb")
        others = {name: plain_sets["test"] | dict(zip(names, values, strict=True)) for name, values in OTHERS.items()}
        alike = agreement(QUICK if quick else ALIKE, plain_sets | others, folder=folder)
        table = Table("lattice against pydensecrf", "mean difference", "greatest", "same label")
        for name, row in alike.items():
            share = f"{100 * row['same_label']:.3f} %"
            table.add_row(name, f"{row['mean_difference']:.1e}", f"{row['greatest_difference']:.1e}", share)
        Console().print(table)
    source = "drawn" if folder is None else "photos"
    write_figures(
        out, {"workers": worker_count(), "images": source, "batches": batches, "floor_s": floors, "alike": alike}
    )


if __name__ == "__main__":
    main()
