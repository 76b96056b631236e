"""docs/own-data.md: every command in it runs, in order, on a folder as it describes."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from dsrg.data.images import read_image, read_mask
from dsrg.sources.scan import read_source
from helpers import ROOT
from helpers.command import run_dsrg
from helpers.data import picture
from helpers.dvc_yaml import STAGES
from helpers.inspect_page import INSPECT, draw_stroke, on_image, serving, wait_until
from helpers.project import TINY, changed_params, run_stage, tiny_project

TEXT = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
SMALL = {"data": {"size": 65}, "network": {"backbone": "vgg_mini", "weights": None, "output_stride": 8, "rates": [1]}}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


ALL_COMMANDS = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
INSPECT_EDIT, REMAKE = ["dsrg", "inspect", "--edit"], ["dvc", "repro", "make_seeds"]  # in a browser, after the others
COMMANDS = [command for command in ALL_COMMANDS if command not in (INSPECT_EDIT, REMAKE)]
COLORS = {"cat": (200, 60, 40), "dog": (40, 160, 60), "sofa": (50, 70, 200)}


def draw(path: Path, tags: list[str], *, seed: int) -> None:
    """A picture with a colored square for each tag, of an odd size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = picture(60 + seed % 13, 70 + seed % 7, seed=seed) // 3
    for place, name in enumerate(tags):
        pixels[15:40, 5 + 30 * place : 30 + 30 * place] = COLORS[name]
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project with small recipes, the tutorial's pictures/ and more like them, new-pictures/ and new-tags.csv."""
    folder = tiny_project(tmp_path_factory.mktemp("tutorial"))
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    (folder / "recipes/folder.yaml").write_text(changed_params(ROOT / "recipes/folder.yaml", TINY, SMALL))
    shutil.copy(folder / "recipes/folder.yaml", folder / "params.yaml")
    table, _ = blocks("csv")
    rows = list(csv.DictReader(table.splitlines()))
    names = list(COLORS)
    rows += [{"image": f"more/{k:02}.jpg", "tags": "|".join({names[k % 3], names[k % 2]})} for k in range(10)]
    for seed, row in enumerate(rows):
        draw(folder / "pictures" / row["image"], row["tags"].split("|") if row["tags"] else [], seed=seed)
    lines = [f"{row['image']},{row['tags']}" for row in rows]
    (folder / "pictures/tags.csv").write_text("\n".join(["image,tags", *lines, ""]), encoding="utf-8")
    new = {"one.jpg": ["dog"], "deep/er/two.jpg": ["cat", "sofa"], "three.png": []}
    for seed, (name, tags) in enumerate(new.items(), start=100):
        draw(folder / "new-pictures" / name, tags, seed=seed)
    lines = [f"{name},{'|'.join(tags)}" for name, tags in new.items()]
    (folder / "new-tags.csv").write_text("\n".join(["image,tags", *lines, ""]))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        yield folder


def execute(command: list[str]) -> str:
    """What a command says, which must succeed. (That dvc itself runs the stages is held by test_experiments.)"""
    if command == ["dvc", "repro"]:
        for name in STAGES:
            run_stage(name)
        return ""
    assert command[0] == "dsrg", command
    return run_dsrg(*command[1:])


@pytest.fixture(scope="module")
def said(project):
    """What each of its commands says, run in their order."""
    return {command[1]: execute(command) for command in COMMANDS}


def test_every_command_runs(said):
    assert list(said) == ["init", "check", "repro", "show", "predict", "pseudo-label", "export"]
    assert "3 classes: cat, dog, sofa" in said["init"]
    assert "13 training images, 3 evaluation images" in said["check"]
    assert "masks of 3 images" in said["predict"]
    for name in ("way.png", "handed-on/segmenter.pt2", "handed-on/segmenter.md", "sharper/polygons.json"):
        assert Path(name).stat().st_size > 0, name
    for name, path in (("deep__er__two", "deep/er/two.jpg"), ("three", "three.png")):
        shape = read_image(f"new-pictures/{path}").shape[:2]
        assert read_mask(f"predicted/masks/{name}.png").shape == shape
        assert read_mask(f"labeled/masks/{name}.png").shape == shape
    assert not read_mask("labeled/masks/three.png").any()
    assert set(np.unique(read_mask("labeled/masks/one.png"))) <= {0, 2}

    values: dict = {}
    (snippet,) = blocks("python")
    exec(snippet, values)
    assert set(values["share"]) == set(COLORS) and not values["probs"][1].any()
    assert not list(Path().rglob("*.tmp"))


def test_ten_minutes_of_clicks(said, project, page):
    """As the text says: the first pictures of the queue, by its keys, and the line that the page shows."""
    assert INSPECT_EDIT in ALL_COMMANDS and REMAKE in ALL_COMMANDS
    assert ["dsrg", INSPECT[0], "--edit"] == INSPECT_EDIT
    with serving(project, *INSPECT, "--edit") as address:
        page.goto(address)
        page.select_option("#tag", "cat")
        page.select_option("#sort", label="where a click helps most")
        page.wait_for_selector("#total:text-matches('minutes of clicks$')")
        page.locator(".tile").first.click()
        for number in range(1, 4):
            wait_until(page, "document.querySelector('#viewer').dataset.ready")
            image_id = page.inner_text("#title")
            page.keyboard.press("q")
            page.mouse.click(*on_image(page, 0.25, 0.4))
            page.keyboard.press("b")
            draw_stroke(page, (0.1, 0.9), (0.9, 0.9))
            page.wait_for_selector("#saved:text-is('saved in data/points.csv')")
            page.wait_for_selector(f"#changes-count:has-text('{2 * number} changes')", state="attached")
            page.keyboard.press("x")
            page.mouse.click(*on_image(page, 0.5, 0.1))
            page.wait_for_selector("#marks-count:has-text('3 points')")
            page.keyboard.press("z")
            page.wait_for_selector("#marks-count:has-text('2 points')")
            page.wait_for_selector("#saved:text-is('saved in data/points.csv')")
            page.keyboard.press("ArrowRight")
            wait_until(page, f"document.querySelector('#title').innerText !== {json.dumps(image_id)}")
        assert page.inner_text("#remake").split() == REMAKE
    run_stage("make_seeds")
    points = json.loads(Path("results/make_seeds/metrics.json").read_text())["points"]
    assert (points["images"], points["points"], points["strokes"], points["erasures"]) == (3, 3, 3, 0)


def test_an_exported_table_gives_the_same_data(tmp_path, monkeypatch):
    """The one of Label Studio, as it stands in the text, through `init`, `check` and `prepare`'s own reading."""
    own, exported = blocks("csv")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data/points.csv", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    rows = list(csv.DictReader(own.splitlines()))
    for seed, row in enumerate(rows):
        draw(Path("pictures") / row["image"], row["tags"].split("|") if row["tags"] else [], seed=seed)
    Path("pictures/project-1.csv").write_text(exported, encoding="utf-8")
    said = execute(["dsrg", "init", "pictures", "--recipe", "shapes"])
    assert "3 classes: cat, dog, sofa" in said and "columns are not used: id, annotator, lead_time" in said
    execute(["dsrg", "check"])
    data = YAML(typ="safe").load(Path("params.yaml").read_text(encoding="utf-8"))["data"]
    others = ("root", "size", "max_side", "points", "points_tags")
    classes, checked = read_source(Path("pictures"), **{key: data[key] for key in data if key not in others})
    tags = ["|".join(classes[k - 1] for k in np.flatnonzero(row[1:]) + 1) for row in checked.index.present]
    assert dict(zip(checked.index.paths, tags, strict=True)) == {row["image"]: row["tags"] for row in rows}


def test_files_and_options_it_names_exist(said):
    for name in re.findall(r"`(results/[\w/.]+|data/[\w/.]+|predicted/[\w/.]+)`", TEXT):
        assert Path(name.replace("ID", "one")).exists(), name
    helped = "".join(run_dsrg(name, "--help") for name in ("init", "predict", "export"))
    for option in set(re.findall(r"`(--[a-z-]+)", TEXT)):
        assert option in helped, option
    params = YAML(typ="safe").load(ROOT / "recipes/folder.yaml")
    for section, key in re.findall(r"`(data|seeds)\.(\w+?)(?:: \w+)?`", TEXT):
        assert key in params[section] or Path(f"{section}/{key}").exists(), key
