"""The whole pipeline at its ends: one class and eighty, one that never occurs, all on one image; images of any size."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsrg.artifacts.model_file import load_model
from dsrg.data.images import read_image, read_mask
from helpers.command import run_dsrg
from helpers.data import picture, read_csv
from helpers.dvc_yaml import FILE, STAGES
from helpers.memory import memory_within
from helpers.project import run_stage, tiny_project

SIZES = {"plain0": (48, 56), "plain1": (50, 44), "dot": (1, 1), "wide": (3, 2000), "tall": (2000, 3), "every": (40, 60)}
LARGE = 6000, 8000  # height, width
SMALL = {
    "cam": {"steps": 2, "batch": 4},
    "dsrg": {"steps": 2, "batch": 4, "watch_images": 1, "watch_times": 1},
    "grow": {"start": 0},
    "retrain": {"steps": 2, "batch": 4},
    "pseudo_labels": {"max_side": 128},
    "evaluate": {"max_side": 128},
}


def draw(root: Path, name: str, shape: tuple[int, int], tags: list[str], *, numbers: list[int]) -> str:
    """An image with a mask of its classes, in stripes -> its row of the table."""
    (root / "masks").mkdir(parents=True, exist_ok=True)
    coarse = picture(min(shape[0], 64), min(shape[1], 64), seed=len(name))
    Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.NEAREST).save(root / f"{name}.jpg")
    stripes = np.resize(np.repeat(np.uint8([0, *numbers]), 2), (1, shape[1]))
    Image.fromarray(np.repeat(stripes, shape[0], axis=0)).save(root / f"masks/{name}.png")
    return f"{name}.jpg,{'|'.join(tags)},{'val' if name in ('every', 'dot') else 'train'}\n"


def make_project(folder: Path, classes: list[str], sizes: dict[str, tuple[int, int]]) -> None:
    """The last class is on no image; "every" shows all others, the other images one or none in turn."""
    data = {"source": "folder", "root": "p", "tags": "tags.csv", "train": "train", "val": "val"}
    tiny_project(folder, data=data, **SMALL)
    (folder / "p").mkdir()
    occurring, rows = classes[:-1] or classes, []
    for place, (name, shape) in enumerate(sizes.items()):
        numbers = [1 + place % len(occurring)] if place % 4 < 3 else []
        numbers = list(range(1, len(occurring) + 1)) if name == "every" else numbers
        rows.append(draw(folder / "p", name, shape, [classes[k - 1] for k in numbers], numbers=numbers))
    (folder / "p/classes.txt").write_text("".join(f"{name}\n" for name in classes))
    (folder / "p/tags.csv").write_text("image,tags,split\n" + "".join(rows))


@pytest.mark.parametrize("count", [1, 80])
def test_every_stage_works(tmp_path, monkeypatch, count):
    classes = [f"kind {number}" for number in range(1, count + 1)]
    make_project(tmp_path, classes, SIZES)
    monkeypatch.chdir(tmp_path)
    for name in list(STAGES)[1:]:
        run_stage(name)
    for name, shape in SIZES.items():
        if name not in ("every", "dot"):
            labels = read_mask(Path(FILE["pseudo_labels"]) / f"{name}.png")
            assert labels.shape == shape and labels.max() <= count
    assert load_model(Path(FILE["retrain"]), kind="segmenter", stage_name="retrain").classes == classes
    assert {row["class"] for row in read_csv("results/evaluate/per_class.csv")} <= {"background", *classes}
    assert 0 <= json.loads(Path("results/evaluate/metrics.json").read_text())["retrain"]["miou"] <= 1

    sides = {read_image(path).shape[:2] for path in Path("results").rglob("overlays/*.png")}
    assert len(sides) > 2 and all(max(side) < 4000 for side in sides), "no picture of a picture fills a hall"
    run_dsrg("predict", "p", "--out", "out", "--crf", "--max-side", "128", "--overlays", "--polygons")
    for name, shape in SIZES.items():
        assert read_mask(f"out/masks/{name}.png").shape == shape


def test_a_large_image_takes_little_memory(tmp_path, monkeypatch):
    """It has 144 MB, and its label map 48."""
    make_project(tmp_path, ["cat", "dog"], {"large": LARGE, "every": (40, 60)})
    monkeypatch.chdir(tmp_path)
    for name in list(STAGES)[1:]:
        with memory_within(800):
            run_stage(name)
    assert read_mask(Path(FILE["pseudo_labels"]) / "large.png").shape == LARGE
    with memory_within(800):
        run_dsrg("predict", "p/large.jpg", "--out", "out", "--crf")
    assert read_mask("out/masks/large.png").shape == LARGE
