"""Time of the CRF's engines, side by side in one run, and how far they are from plain pydensecrf.

    python -m benchmarks.crf [--images data/VOCdevkit/VOC2012/JPEGImages] [--rounds 5]

Plain is what one would write first: pydensecrf in one process, one image at a time. A round runs every engine once, in
turn, so that whatever else the machine does meets all of them. Networks' opinions are smooth random ones; without a
folder the images are drawn. Without pydensecrf the rest is held against the lattice on the CPU; on a machine with a GPU
the lattice runs there too. Prints a table, writes JSON.
"""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import RESULTS
from dsrg.data.images import read_image
from dsrg.errors import InputError
from dsrg.files import write_json
from dsrg.method.crf import dense_crf, unary_energies
from dsrg.method.mean_field import Kernel, mean_field
from dsrg.parallel import worker_count
from dsrg.params import load_params
from dsrg.progress import tracked


@dataclass(frozen=True)
class Case:
    """A batch of images as one use of the CRF sees it; `kernel` names the params: `crf.train` or `crf.test`."""

    name: str
    batch: int
    height: int
    width: int
    classes: int
    kernel: str


CASES = [Case("training step", 20, 41, 41, 21, "train"), Case("whole image", 1, 375, 500, 21, "test")]


def drawn_images(case: Case) -> list[NDArray[np.uint8]]:
    """Patches of smooth colour with noise, (H, W, 3)."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(case.batch):
        patches = rng.integers(0, 256, (6, 8, 3)).astype(np.float32)
        image = cv2.resize(patches, (case.width, case.height), interpolation=cv2.INTER_CUBIC)
        images.append((image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8))
    return images


def images_of(case: Case, folder: Path | None) -> Tensor:
    """uint8 (B, 3, H, W): the first images of a folder, brought to the case's size, or drawn ones.

    Raises:
        InputError: too few JPEGs in the folder.
    """
    if folder is None:
        images = drawn_images(case)
    else:
        paths = list(islice(sorted(folder.glob("*.jpg")), case.batch))
        if len(paths) < case.batch:
            raise InputError(f"--images {folder}: expected {case.batch} files *.jpg or more, found {len(paths)}")
        size = (case.width, case.height)
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


def engines(kernel: dict) -> dict[str, Engine]:
    """Title -> engine, those that this machine has; the first is what the others are held against."""

    def plain(images: Tensor, energies: Tensor) -> Tensor:
        pairs = zip(images.numpy(), energies.numpy(), strict=True)
        return torch.stack([torch.from_numpy(mean_field((image, energy, Kernel(**kernel)))) for image, energy in pairs])

    def lattice_on(device: str) -> Engine:
        def refine(images: Tensor, energies: Tensor) -> Tensor:
            # results come back to the host, so the device has finished when the clock stops
            return dense_crf(images.to(device), energies.to(device), **kernel, engine="lattice").cpu()

        return refine

    found: dict[str, Engine] = {}
    if find_spec("pydensecrf"):
        found["pydensecrf, plain"] = plain
        processes = f"pydensecrf, {worker_count()} processes"
        found[processes] = lambda images, energies: dense_crf(images, energies, **kernel, engine="pydensecrf")
    found["lattice, CPU"] = lattice_on("cpu")
    if torch.cuda.is_available():
        found[f"lattice, {torch.cuda.get_device_name()}"] = lattice_on("cuda")
    return found


def compare(case: Case, crf: dict, *, folder: Path | None, rounds: int) -> dict[str, dict]:
    """Seconds a batch of each engine (median, least and most of the rounds), and its distance from the first engine.

    Args:
        crf: the params `crf.train` or `crf.test`, as a dict.
    """
    images = images_of(case, folder)
    energies = unary_energies(probs_of(case), unary=crf.get("unary", "logp"), min_prob=crf["min_prob"])
    running = engines({key: value for key, value in crf.items() if key not in ("unary", "min_prob")})
    seconds: dict[str, list[float]] = {title: [] for title in running}
    # the first round starts processes and devices and counts for nothing but the results
    results = {title: engine(images, energies) for title, engine in running.items()}
    for _ in tracked(range(rounds), case.name, rounds):
        for title, engine in running.items():
            began = time.perf_counter()
            engine(images, energies)
            seconds[title].append(time.perf_counter() - began)
    reference = next(iter(results.values()))
    return {
        title: {
            "median_seconds": statistics.median(seconds[title]),
            "least_seconds": min(seconds[title]),
            "most_seconds": max(seconds[title]),
            "mean_difference": float((probs - reference).abs().mean()),
            "greatest_difference": float((probs - reference).abs().max()),
            "same_label": float((probs.argmax(1) == reference.argmax(1)).float().mean()),
        }
        for title, probs in results.items()
    }


@click.command()
@click.option("--images", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="JPEGs to use.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
def main(folder: Path | None, rounds: int) -> None:
    params = load_params().crf
    figures = {}
    for case in CASES:
        found = compare(case, getattr(params, case.kernel).model_dump(), folder=folder, rounds=rounds)
        title = f"{case.name}: {case.batch} x {case.height} x {case.width}, {case.classes} classes"
        figures[title] = found
        plain = next(iter(found.values()))["median_seconds"]
        table = Table(
            "engine", "ms, median", "least - most", "times plain", "mean difference", "same label", title=title
        )
        for engine, row in found.items():
            table.add_row(
                engine,
                f"{1e3 * row['median_seconds']:.0f}",
                f"{1e3 * row['least_seconds']:.0f} - {1e3 * row['most_seconds']:.0f}",
                f"{row['median_seconds'] / plain:.2f}",
                f"{row['mean_difference']:.1e}",
                f"{100 * row['same_label']:.3f} %",
            )
        Console().print(table)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "workers": worker_count(),
        "torch": torch.__version__,
        "images": "drawn" if folder is None else "photos",
        "rounds": rounds,
    }
    write_json(RESULTS / "crf.json", {"machine": machine, "batches": figures})


if __name__ == "__main__":
    main()
