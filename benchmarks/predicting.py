"""What `dsrg predict` takes beside its network: reading, checking and writing pictures, on the CPU, without CRF.

    python -m benchmarks.predicting [--recipe recipes/folder.yaml] [--quick]

The command, called in this process, against the network alone, which is given the same squares ready-made, in the same
batches: the recipe's network with random weights, the released scales, twenty classes. Drawn pictures as JPEGs: of
VOC's size, and, fewer, of a camera's. Then where the rest goes: the command's other parts, each alone, one picture
after the other, while in the command some run beside the network. All take turns. Prints a table, writes JSON.

The floor is the network with every picture decoded once and every mask written: what no way of predicting does without.
"""

import tempfile
from collections.abc import Callable
from itertools import count, cycle
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import RESULTS
from benchmarks.own_folder import KINDS, draw
from benchmarks.timing import COLUMNS, in_turn, ratio, spread, write_figures
from dsrg import cli, released
from dsrg.artifacts.model_file import Model, save_model
from dsrg.artifacts.predictions import PredictionFolder
from dsrg.data.classes import VOC_CLASSES
from dsrg.data.images import read_image, shrunk
from dsrg.inference.pictures import check_pictures, find_pictures
from dsrg.inference.predict import load_segmenter, opinions, predictions
from dsrg.inference.squares import scaled_side, squares
from dsrg.inference.trained import RELEASED
from dsrg.networks.weights import initial_segmenter
from dsrg.params import Params, load_params

BATCH = 8  # the command's own
CASES = {"VOC's": (450, 32), "a camera's": (3500, 4)}  # about the pictures' sides, how many


def draw_pictures(folder: Path, *, side: int, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{number:03}.jpg" for number in range(count)]
    for path in paths:
        Image.fromarray(draw(rng, list(KINDS)[:2], side=side)[0]).save(path, quality=90)
    return paths


def save_untrained(path: Path, params: Params) -> torch.nn.Module:
    """The recipe's network with random weights, in a model file and as it is."""
    torch.manual_seed(0)
    network = params.network.model_dump(exclude={"weights"})
    segmenter = initial_segmenter(classes=len(VOC_CLASSES), weights=None, **network).eval()
    save_model(path, Model("segmenter", VOC_CLASSES, network, params.data.size, segmenter.state_dict()))
    return segmenter


def ready_batches(paths: list[Path], size: int) -> list[torch.Tensor]:
    """The squares that the network is given: each batch of pictures at each scale."""
    pictures = [shrunk(read_image(path), released.PREDICT["max_side"]) for path in paths]
    groups = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
    return [squares(group, scaled_side(size, scale)) for group in groups for scale in released.PREDICT["scales"]]


class Ready(nn.Module):
    """Answers with grids that were made before, in turn, whatever it is shown."""

    def __init__(self, grids: list[Tensor]) -> None:
        super().__init__()
        self.grids, self.place = cycle(grids), nn.Parameter(torch.empty(0))

    def forward(self, images: Tensor) -> Tensor:
        return next(self.grids)


def sides(place: Path, folder: Path, *, segmenter: nn.Module, size: int) -> dict[str, Callable[[], object]]:
    """The command, its network, and its other parts, over all pictures of a folder; place: where to write."""
    model, paths, numbers = place / "model.pt", sorted(folder.iterdir()), count()
    batches = ready_batches(paths, size)
    ready, images = Ready([segmenter(batch) for batch in batches]), [read_image(path) for path in paths]

    def merge() -> list[np.ndarray]:
        found = opinions(ready, images, None, RELEASED, size=size, batch=BATCH)
        return [one.labels for one in predictions(found, kernel=None)]

    masks = merge()

    def new() -> Path:
        return place / f"{folder.name}-{next(numbers)}"

    def predict() -> None:
        options = ["--model", f"{model}", "--out", f"{new()}", "--device", "cpu"]
        cli.main(["predict", f"{folder}", *options], standalone_mode=False)

    def write() -> None:
        (out := new()).mkdir()
        results = PredictionFolder(out, VOC_CLASSES, polygons=False)
        for path, labels in zip(paths, masks, strict=True):
            results.write(path.stem, labels)
            results.add(path.stem, path, labels)
        results.finish()

    return {
        "predict": predict,
        "network": lambda: [segmenter(batch) for batch in batches],
        "checking": lambda: check_pictures(find_pictures([f"{folder}"]).pictures, pixels_max=released.PIXELS_MAX),
        "loading the model": lambda: load_segmenter(model, made_by="retrain"),
        "decoding": lambda: [read_image(path) for path in paths],
        "scaling, merging, choosing": merge,
        "writing": write,
    }


@click.command()
@click.option("--recipe", default="recipes/folder.yaml", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--quick", is_flag=True, help="The demo's network, two small pictures: to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), help="The JSON; benchmarks/results/predicting-RECIPE.json.")
def main(recipe: str, rounds: int, quick: bool, out: Path | None) -> None:
    recipe, rounds = ("params.yaml", 1) if quick else (recipe, rounds)
    name, params = Path(recipe).stem, load_params(recipe)
    table, figures = Table(f"predict, {name}", *COLUMNS, "times the network"), {}
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        place = Path(temporary)
        segmenter = save_untrained(place / "model.pt", params)
        for title, (side, number) in ({"small": (60, 2)} if quick else CASES).items():
            draw_pictures(place / f"{side}", side=side, count=number)
            runs = in_turn(sides(place, place / f"{side}", segmenter=segmenter, size=params.data.size), rounds=rounds)
            network, least = runs["network"], [runs[what] for what in ("network", "decoding", "writing")]
            for what, run in runs.items():
                share = ratio(run.wall, network.wall)["median"]
                table.add_row(f"{what}, {number} pictures of {title} size", *run.cells(), f"{share:.2f}")
            floor = [sum(walls) for walls in zip(*(run.wall for run in least), strict=True)]
            seconds = {what: run.figures() for what, run in runs.items()}
            figures[title] = {
                "side": side,
                "pictures": number,
                "predict": seconds.pop("predict"),
                "network": seconds.pop("network"),
                "parts": seconds,
                "floor_s": spread(floor)["median_s"],
                "times_the_network": ratio(runs["predict"].wall, network.wall),
                "times_the_floor": ratio(runs["predict"].wall, floor),
                "processor_times_the_network": ratio(runs["predict"].processor, network.processor),
            }
    Console().print(table)
    write_figures(out or RESULTS / f"predicting-{name}.json", {"rounds": rounds, "sizes": figures})


if __name__ == "__main__":
    main()
