"""What `dsrg predict` takes beside its network: reading, checking and writing pictures, on the CPU, without CRF.

    python -m benchmarks.predicting [--recipe recipes/folder.yaml] [--quick]

The command, called in this process, against the network alone, which is given the same squares ready-made, in the same
batches: the recipe's network with random weights, the released scales, twenty classes. The two take turns. Drawn
pictures as JPEGs: of VOC's size, and, fewer, of a camera's. Prints a table, writes JSON.
"""

import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.own_folder import KINDS, draw
from benchmarks.timing import COLUMNS, in_turn, ratio, write_figures
from dsrg import cli, released
from dsrg.artifacts.model_file import Model, save_model
from dsrg.data.classes import VOC_CLASSES
from dsrg.data.images import read_image, shrunk
from dsrg.inference.squares import scaled_side, squares
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


@click.command()
@click.option("--recipe", default="recipes/folder.yaml", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--quick", is_flag=True, help="The demo's network, two small pictures: to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), help="The JSON; benchmarks/results/predicting-RECIPE.json.")
def main(recipe: str, rounds: int, quick: bool, out: Path | None) -> None:
    recipe, rounds = ("params.yaml", 1) if quick else (recipe, rounds)
    name, params = Path(recipe).stem, load_params(recipe)
    table, figures = Table(f"predict, {name}", *COLUMNS, "times the network"), {}
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        segmenter = save_untrained(Path(place) / "model.pt", params)
        for title, (side, count) in ({"small": (60, 2)} if quick else CASES).items():
            paths = draw_pictures(Path(place) / f"{side}", side=side, count=count)
            batches = ready_batches(paths, params.data.size)
            outs = iter(range(rounds + 1))

            def predict(side: int = side, outs: object = outs) -> None:
                options = [
                    "--model",
                    f"{place}/model.pt",
                    "--out",
                    f"{place}/out{side}-{next(outs)}",
                    "--device",
                    "cpu",
                ]
                cli.main(["predict", f"{place}/{side}", *options], standalone_mode=False)

            def network(batches: list[torch.Tensor] = batches) -> None:
                for batch in batches:
                    segmenter(batch)

            runs = in_turn({"predict": predict, "network": network}, rounds=rounds)
            times = ratio(runs["predict"].wall, runs["network"].wall)
            work = ratio(runs["predict"].processor, runs["network"].processor)
            for what, run in runs.items():
                share = f"{times['median']:.2f}" if what == "predict" else ""
                table.add_row(f"{what}, {count} pictures of {title} size", *run.cells(), share)
            seconds = {what: run.figures() for what, run in runs.items()}
            ratios = {"times_the_network": times, "processor_times_the_network": work}
            figures[title] = {"side": side, "pictures": count, **seconds, **ratios}
    Console().print(table)
    write_figures(out or RESULTS / f"predicting-{name}.json", {"rounds": rounds, "sizes": figures})


if __name__ == "__main__":
    main()
