"""What `dsrg predict` takes beside its network: reading, checking and writing pictures, on the CPU, without CRF.

    python -m benchmarks.predicting [--recipe recipes/folder.yaml] [--quick]
    python -m benchmarks.predicting --model data/retrain.safetensors --pictures VOC2012/JPEGImages

The command, called in this process, against the network alone, which is given the same squares ready-made, in the same
batches, at the released scales. Pictures are JPEGs: of VOC's size, and, fewer, of a camera's. Then where the rest goes:
the command's other parts, each alone, one picture after the other, while in the command some run beside the network.
All take turns. Prints a table, writes JSON. Also: how many pixels get another class because large JPEGs are decoded at
less than their size, and a cold start, a command of its own for one picture, beside importing torch alone.

Without a model it is the recipe's network for twenty classes with random weights, on drawn pictures. That is the worst
case: of random scores nearly every class is somewhere the highest, while a trained network has few contenders in an
image. So there is a measurement with a trained one, on pictures of the kind it knows (those of a camera's size are the
same ones enlarged).

The floor is what no way of predicting does without: the model loaded, the network, every picture decoded once at the
size worked on, every mask written. It is given on the clock and, since programs beside this one hardly change that, of
the processor.
"""

import shutil
import sys
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
from benchmarks.timing import COLUMNS, Runs, in_turn, ratio, seconds_of, spread, write_figures
from dsrg.artifacts.model_file import save_model
from dsrg.artifacts.predictions import PredictionFolder
from dsrg.commands import main as dsrg
from dsrg.data.classes import VOC_CLASSES
from dsrg.data.images import limit_side, read_image, read_sized
from dsrg.inference import released
from dsrg.inference.predict import enlarged, load_segmenter, predictions
from dsrg.inference.preprocess import scaled_side, warp_to_square
from dsrg.networks.weights import as_model, untrained
from dsrg.params import Params, load_params
from dsrg.predictor import RELEASED
from dsrg.sources.pictures import check_pictures, find_pictures

BATCH = 2  # the command's own, on a CPU
FLOOR = ("loading the model", "network", "decoding", "writing")
MAX_SIDE = released.PREDICT["max_side"]
CASES = {"VOC's": (450, 16), "a camera's": (3500, 4)}  # about the pictures' sides, how many


def make_pictures(folder: Path, originals: list[Path] | None, *, side: int, count: int) -> list[Path]:
    """Pictures in a new folder: copies of originals, enlarged to about the side if they are smaller, or drawn ones."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{number:03}.jpg" for number in range(count)]
    if originals is None:
        for path in paths:
            Image.fromarray(draw(rng, list(KINDS)[:2], side=side)[0]).save(path, quality=90)
        return paths
    for path, original in zip(paths, originals, strict=False):
        image = Image.open(original)
        if (times := side / sum(image.size) * 2) > 2:
            image.resize([round(times * length) for length in image.size]).save(path, quality=90)
        else:
            shutil.copyfile(original, path)
    return paths[: len(originals)]


def save_untrained(path: Path, params: Params) -> None:
    """The recipe's network with random weights, in a model file."""
    torch.manual_seed(0)
    segmenter = untrained(params, "dsrg", classes=len(VOC_CLASSES))
    save_model(path, as_model(segmenter, params, "dsrg", classes=VOC_CLASSES))


def ready_batches(paths: list[Path], size: int) -> list[torch.Tensor]:
    """The squares that the network is given: each batch of pictures at each scale."""
    pictures = [read_sized(path, MAX_SIDE).pixels for path in paths]
    groups = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
    return [warp_to_square(group, scaled_side(size, scale)) for group in groups for scale in released.PREDICT["scales"]]


class Ready(nn.Module):
    """Answers with grids that were made before, in turn, whatever it is shown."""

    def __init__(self, grids: list[Tensor]) -> None:
        super().__init__()
        self.grids, self.place = cycle(grids), nn.Parameter(torch.empty(0))

    def forward(self, images: Tensor) -> Tensor:
        return next(self.grids)


def sides(place: Path, folder: Path, *, model: Path) -> dict[str, Callable[[], object]]:
    """The command, its network, and its other parts, over all pictures of a folder; place: where to write."""
    paths, numbers = sorted(folder.iterdir()), count()
    segmenter, content = load_segmenter(model, stage_name="retrain")
    size, classes = content.size, content.classes
    batches = ready_batches(paths, size)
    ready, images = Ready([segmenter(batch) for batch in batches]), [read_sized(path, MAX_SIDE) for path in paths]

    def merge() -> list[np.ndarray]:
        return [one.labels for one in predictions(ready, images, None, RELEASED, size=size, kernel=None, batch=BATCH)]

    masks = merge()

    def new() -> Path:
        return place / f"{folder.name}-{next(numbers)}"

    def predict() -> None:
        options = ["--model", f"{model}", "--out", f"{new()}", "--device", "cpu"]
        dsrg(["predict", f"{folder}", *options], standalone_mode=False)

    def write() -> None:
        (out := new()).mkdir()
        results = PredictionFolder(out, classes, polygons=False)
        for path, labels in zip(paths, masks, strict=True):
            results.write(path.stem, labels)
            results.add(path.stem, path, labels)
        results.finish()

    return {
        "predict": predict,
        "network": lambda: [segmenter(batch) for batch in batches],
        "checking": lambda: check_pictures(find_pictures([f"{folder}"]).pictures, pixels_max=released.PIXELS_MAX),
        "loading the model": lambda: load_segmenter(model, stage_name="retrain"),
        "decoding": lambda: [read_sized(path, MAX_SIDE) for path in paths],
        "squares, merging, enlarging": merge,
        "writing": write,
    }


def share_changed(paths: list[Path], *, model: Path) -> float:
    """The share of all pixels that get another class than when pictures are decoded whole."""
    segmenter, content = load_segmenter(model, stage_name="retrain")
    small, whole = (
        predictions(segmenter, images, None, RELEASED, size=content.size, kernel=None)
        for images in (
            (read_sized(path, MAX_SIDE) for path in paths),
            (limit_side(read_image(path), MAX_SIDE) for path in paths),
        )
    )
    pairs = ((a.labels, enlarged(b.labels, a.labels.shape)) for a, b in zip(small, whole, strict=True))
    return float(np.mean([np.mean(a != b) for a, b in pairs]))


def cold_start(picture: Path, place: Path, *, model: Path, rounds: int) -> dict[str, float]:
    """Least processor seconds of the command for one picture, in a process of its own, and of importing torch alone."""
    code = "import sys; from dsrg.commands import main; main(sys.argv[1:])"
    least = {"predict": float("inf"), "import torch": float("inf")}
    for number in range(rounds):
        options = ["--model", f"{model}", "--out", f"{place / f'cold{number}'}", "--device", "cpu"]
        for what, arguments in (
            ("predict", [code, "predict", f"{picture}", *options]),
            ("import torch", ["import torch"]),
        ):
            _, processors, done = seconds_of([sys.executable, "-c", *arguments])
            done.check_returncode()
            least[what] = min(least[what], processors)
    return {"processor_s": least["predict"], "import_torch_s": least["import torch"]}


def figures_of(runs: dict[str, Runs]) -> dict:
    """What is written of a folder's timings; on the clock, and, as least of the rounds, of the processor."""
    seconds = {what: run.figures() for what, run in runs.items()}
    floor = [sum(walls) for walls in zip(*(runs[what].wall for what in FLOOR), strict=True)]
    processor = sum(min(runs[what].processor) for what in FLOOR)
    least = min(runs["predict"].processor)
    return {
        "predict": seconds.pop("predict"),
        "network": seconds.pop("network"),
        "parts": seconds,
        "floor_s": spread(floor)["median_s"],
        "floor_processor_s": processor,
        "times_the_network": ratio(runs["predict"].wall, runs["network"].wall),
        "times_the_floor": ratio(runs["predict"].wall, floor),
        "processor_times_the_network": least / min(runs["network"].processor),
        "processor_times_the_floor": least / processor,
    }


@click.command()
@click.option("--recipe", default="recipes/folder.yaml", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--model", type=click.Path(path_type=Path, exists=True), help="A trained network, instead.")
@click.option(
    "--pictures", type=click.Path(path_type=Path, exists=True), help="Folder of JPEGs, instead of drawn ones."
)
@click.option("--quick", is_flag=True, help="The demo's network, two small pictures: to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), help="The JSON; predicting-RECIPE or -trained.json.")
def main(recipe: str, rounds: int, model: Path | None, pictures: Path | None, quick: bool, out: Path | None) -> None:
    recipe, rounds = ("params.yaml", 1) if quick else (recipe, rounds)
    name = "trained" if model else Path(recipe).stem
    originals = sorted(pictures.glob("*.jpg")) if pictures else None
    table, figures = Table(f"predict, {name}", *COLUMNS, "processor, times the network"), {}
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        place = Path(temporary)
        if model is None:
            model = place / "model.pt"
            save_untrained(model, load_params(recipe))
        for title, (side, number) in ({"small": (60, 2)} if quick else CASES).items():
            paths = make_pictures(place / f"{side}", originals, side=side, count=number)
            runs = in_turn(sides(place, place / f"{side}", model=model), rounds=rounds)
            for what, run in runs.items():
                share = min(run.processor) / min(runs["network"].processor)
                table.add_row(f"{what}, {len(paths)} pictures of {title} size", *run.cells(), f"{share:.2f}")
            changed = share_changed(paths, model=model)
            figures[title] = {"side": side, "pictures": len(paths), **figures_of(runs), "pixels_changed": changed}
        cold = cold_start(paths[0], place, model=model, rounds=rounds)
    Console().print(table)
    write_figures(out or RESULTS / f"predicting-{name}.json", {"rounds": rounds, "sizes": figures, "cold": cold})


if __name__ == "__main__":
    main()
