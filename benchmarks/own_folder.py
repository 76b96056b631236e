"""60 drawn pictures and a table of tags, to masks and a network that predicts, in four commands: their time, how right.

    python -m benchmarks.own_folder [--weights FILE]

The pictures are drawn here, together with masks that the pipeline never sees. The commands run one after the other in a
copy of the project, as somebody would type them. Prints a table and writes JSON. Beside the time that went by stand the
processors' seconds, of all processes: on a busy machine they tell more. Without --weights there are no ImageNet weights
to be had in the copy, so that `dsrg init` falls back to a small network.
"""

import csv
import os
import shutil
import sys
import tempfile
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.timing import seconds_of, write_figures
from dsrg.data.images import read_mask
from dsrg.method.metrics import confusion_matrix, iou_per_class, mean_iou

ROOT = Path(__file__).parent.parent
COPIED = (
    *("dsrg", "stages", "recipes", ".dvc/config", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"),
    "data/points.csv",
)
KINDS = {"ball": (200, 60, 40), "box": (40, 110, 200), "kite": (60, 170, 70)}  # class -> about its color
CORNERS = {"ball": 32, "box": 4, "kite": 3}
ENDINGS = (".jpg", ".png", ".webp", ".tiff")
WEIGHTS = "hub/checkpoints/mobilenet_v2-b0353104.pth"  # where torchvision looks for them, below TORCH_HOME
COMMANDS = ("dsrg init pictures", "dsrg check", "dvc repro", "dsrg predict new --out predicted")


def draw(rng: np.random.Generator, kinds: list[str], *, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture of things on a grainy ground -> uint8 (H, W, 3) and its label map (H, W); H and W are about `side`."""
    height, width = rng.integers(side * 3 // 4, side * 5 // 4, 2).tolist()
    ground = rng.integers(90, 190, 3) + rng.integers(-30, 31, (4, 5, 1)) + rng.integers(-10, 11, (4, 5, 3))
    image = cv2.resize(ground.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    labels = np.zeros((height, width), np.uint8)
    for kind in kinds:
        radius = int(min(height, width) * rng.uniform(0.18, 0.28))
        middle = rng.integers([radius, radius], [width - radius, height - radius])
        color = (np.array(KINDS[kind]) + rng.integers(-30, 31, 3)).clip(0, 255).tolist()
        angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, CORNERS[kind], endpoint=False)
        outline = (middle + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).round().astype(np.int32)
        cv2.fillPoly(image, [outline], color)
        cv2.fillPoly(labels, [outline], list(KINDS).index(kind) + 1)
    return (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8), labels


def draw_folder(root: Path, count: int, *, side: int, seed: int) -> dict[str, NDArray[np.uint8]]:
    """Pictures of no, one or two kinds of things, oddly named, in mixed formats, and tags.csv -> label maps by path."""
    rng = np.random.default_rng(seed)
    rows, masks = [], {}
    for number in range(count):
        kinds = rng.permutation(list(KINDS))[: number % 10 and rng.integers(1, 3)].tolist()
        image, labels = draw(rng, kinds, side=side)
        path = f"box {number % 3}/Bild {number:02} ä{ENDINGS[number % len(ENDINGS)]}"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / path)
        rows.append([path, "|".join(kinds)])
        masks[path] = labels
    with open(root / "tags.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image", "tags"], *rows])
    return masks


def copy_project(folder: Path) -> None:
    """The project's own files, without git."""
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")


def measured(command: str, folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds that went by, and processors' seconds, of a command that must succeed."""
    called = {"dsrg": [sys.executable, "-c", "from dsrg.commands import main; main()"]}  # the copy's, installed or not
    name, *arguments = command.split()
    command_line = [*called.get(name, [name]), *arguments]
    seconds, processors, done = seconds_of(command_line, cwd=folder, env=environment)
    if done.returncode:
        raise click.ClickException(f"{command}: {done.stdout}{done.stderr}")
    return seconds, processors


def score(masks: dict[str, NDArray[np.uint8]], table: Path, column: str, folder: Path) -> float:
    """Mean IoU, over background and classes, of FOLDER/ID.png for the images that a table has in `column`."""
    with open(table, encoding="utf-8", newline="") as file:
        found = {row[column].removeprefix("new/"): folder / f"{row['id']}.png" for row in csv.DictReader(file)}
    pairs = ((masks[path], read_mask(mask)) for path, mask in found.items() if mask.exists())
    return mean_iou(iou_per_class(sum(confusion_matrix(*pair, classes=len(KINDS)) for pair in pairs)))


@click.command()
@click.option("--weights", type=click.Path(path_type=Path, exists=True), help="torchvision's MobileNetV2 state dict.")
@click.option("--side", default=240, show_default=True, help="Pixels, about, of a picture's sides.")
def main(weights: Path | None, side: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        copy_project(folder)
        masks = draw_folder(folder / "pictures", 60, side=side, seed=0)
        new = draw_folder(folder / "new", 30, side=side, seed=1)
        tools = Path(sys.executable).parent
        environment = os.environ | {"PYTHONPATH": place, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        environment |= {"TORCH_HOME": f"{place}/torch", "https_proxy": "http://127.0.0.1:9"}  # where nobody answers
        if weights:
            (folder / "torch" / WEIGHTS).parent.mkdir(parents=True)
            shutil.copy(weights, folder / "torch" / WEIGHTS)
        times = {command: measured(command, folder, environment) for command in COMMANDS}
        quality = {
            "pseudo_labels_miou": score(masks, folder / "data/index.csv", "path", folder / "data/pseudo_labels"),
            "new_pictures_miou": score(new, folder / "predicted/images.csv", "image", folder / "predicted/masks"),
        }
    wall, work = (sum(column) for column in zip(*times.values(), strict=True))
    table = Table("command", "seconds", "processors' seconds")
    for command, (seconds, processors) in [*times.items(), ("all", (wall, work))]:
        table.add_row(command, f"{seconds:.0f}", f"{processors:.0f}")
    Console().print(table, quality)
    name = "own_folder-mobilenet_v2" if weights else "own_folder-vgg_mini"
    rows = {command: {"seconds": a, "processor_seconds": b} for command, (a, b) in times.items()}
    totals = {"total_seconds": wall, "total_processor_seconds": work}
    write_figures(RESULTS / f"{name}.json", {"side": side, "commands": rows, **totals, **quality})


if __name__ == "__main__":
    main()
