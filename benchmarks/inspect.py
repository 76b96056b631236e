"""`dsrg inspect` with many images: how soon the grid is there, what it keeps in memory, how fast thresholds answer.

    python -m benchmarks.inspect [--quick]

Makes a project of noise with the sizes of VOC 2012 (photographs of 500 x 375, seeds of 41 x 41 cells, twenty classes,
two tags an image; fifty pictures and maps shared by 10,000 images), with an untrained MobileNetV2 and fifty images of
recorded growth, serves it as a person would and uses it with a headless Chromium, while the server counts what all
thresholds would cover. Memory is the proportional set size of all processes: at first, and after all of the grid was
scrolled through. Prints a table, writes JSON.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import click
import cv2
import numpy as np
import psutil
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.experiments import yaml
from benchmarks.full_size import noise_images
from benchmarks.timing import write_figures
from dsrg.artifacts.model_file import save_model
from dsrg.artifacts.seeds_h5 import SeedRow, write_seeds
from dsrg.data.classes import VOC_CLASSES, write_classes
from dsrg.data.index import write_index
from dsrg.data.palette import label_png
from dsrg.files import atomic_file
from dsrg.method.grid import grid_size
from dsrg.networks.weights import as_model, untrained
from dsrg.params import load_params
from dsrg.project import load_project
from dsrg.sources.points import write_point_rows

ROOT = Path(__file__).parents[1]
RECIPE, SIZE = "voc2012-mobilenet", 321
THRESHOLDS = {"seeds.fg_thresh": 0.3, "seeds.bg_thresh": 0.3, "grow.fg_thresh": 0.85, "grow.bg_thresh": 0.99}
PICTURES, WATCHED = 50, 50
MOVES = 30  # of each slider
STRETCH = 500  # tiles that are scrolled to at a time
TILES = "document.querySelectorAll('.tile')"
SEEN = "(box => box.top < innerHeight && box.bottom > 0)(tile.getBoundingClientRect())"
IN_SIGHT = f"[...{TILES}].filter(tile => {SEEN})"
THUMBNAILS = f"{IN_SIGHT}.length > 10 && {IN_SIGHT}.every(tile => tile.querySelector('img').naturalWidth > 0)"


def make_project(folder: Path, count: int) -> None:
    """What `dsrg inspect` reads, below a folder that becomes the working folder."""
    params = yaml.load((ROOT / "recipes" / f"{RECIPE}.yaml").read_text())
    params["data"] |= {"root": "pictures", "size": SIZE}
    params["network"]["weights"] = None
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    (folder / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    os.chdir(folder)
    (folder / "pictures").mkdir()
    project, params = load_project(), load_params()
    few = noise_images(folder / "pictures", PICTURES)
    shared = few.pick(np.arange(count) % PICTURES)
    ids = [f"image{row:05d}" for row in range(count)]
    paths = [f"{image_id}.jpg" for image_id in ids]
    for path, picture in zip(paths, shared.paths, strict=True):
        (folder / "pictures" / path).hardlink_to(folder / "pictures" / picture)
    write_index(project.paths.index, replace(shared, ids=ids, paths=paths), VOC_CLASSES)
    write_classes(project.paths.classes, VOC_CLASSES)
    write_point_rows(project.paths.points, [])
    grid = grid_size(params.data.size)
    drawn = [smooth(row, grid) for row in range(PICTURES)]
    tags = np.flatnonzero(few.present[0, 1:]).astype(np.uint8) + 1
    rows = (SeedRow(image_id, shared.present[row], *drawn[row % PICTURES], tags) for row, image_id in enumerate(ids))
    write_seeds(project.paths.seeds, rows, count=count, grid=grid, classes=VOC_CLASSES, params="{}")
    for image_id in ids[:WATCHED]:
        for step in (150, 300, 450):
            with atomic_file(project.paths.growth / image_id / f"{step:06d}.png") as temporary:
                temporary.write_bytes(label_png(drawn[0][0]))
    segmenter = untrained(params, "dsrg", classes=len(VOC_CLASSES))
    save_model(project.paths.dsrg, as_model(segmenter, params, "dsrg", classes=VOC_CLASSES))


def smooth(seed: int, grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seeds uint8 (grid, grid) of two classes, saliency and two activation maps, smooth, 0..1."""
    coarse = np.random.default_rng(seed).random((3, 5, 5))
    saliency, *cams = (cv2.resize(one, (grid, grid), interpolation=cv2.INTER_CUBIC).clip(0, 1) for one in coarse)
    cams = np.stack([cam / cam.max() for cam in cams])
    seeds = np.where(saliency < 0.3, 0, np.where(cams[0] > 0.7, 3, 255)).astype(np.uint8)
    return seeds, saliency, cams


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[str, psutil.Process, float]]:
    """Its address, its process, and seconds until it listened."""
    command = [sys.executable, "-c", "from dsrg.commands import main; main()", "inspect", "--no-browser", "--port", "0"]
    command += options
    began = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            address = server.stdout.readline().strip()
            yield address, psutil.Process(server.pid), time.perf_counter() - began
        finally:
            server.terminate()


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def live_answers(address: str, *, grow: bool) -> dict[str, float]:
    """Milliseconds from asking to the whole answer, moving each of two sliders through its range."""
    keys = ("grow.fg_thresh", "grow.bg_thresh") if grow else ("seeds.fg_thresh", "seeds.bg_thresh")

    def ask(key: str, move: int) -> None:
        query = urlencode(THRESHOLDS | {key: move / MOVES, "grow": int(grow)})
        urlopen(f"{address}api/live/image00007?{query}").read()

    ask(keys[0], 0)  # what is made once
    return summary(timed(lambda: ask(key, move)) for key in keys for move in range(MOVES))  # noqa: B023


def live_points(address: str) -> dict[str, float]:
    """Milliseconds from one point more on an image to the whole answer: the point saved, seeds and growth made anew."""
    site, token = address.split("?token=")
    thresholds = urlencode(THRESHOLDS | {"grow": 1})

    def set_point(number: int) -> None:
        point = {"class": VOC_CLASSES[number % 20], "radius": 0, "path": [[8 * number, 5 * number]]}
        body = json.dumps({"add": [point], "remove": []}).encode()
        urlopen(Request(f"{site}api/points/image00007", data=body, headers={"X-Token": token})).read()
        urlopen(f"{site}api/live/image00007?{thresholds}").read()

    set_point(0)
    return summary(timed(lambda: set_point(number)) for number in range(1, 2 * MOVES))  # noqa: B023


def summary(seconds: Iterable[float]) -> dict[str, float]:
    milliseconds = [1000 * value for value in seconds]
    return {"median_ms": statistics.median(milliseconds), "slowest_ms": max(milliseconds)}


@contextmanager
def browsed() -> Iterator[tuple[Page, psutil.Process]]:
    """A tab of Chromium, and the process of the browser."""
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with sync_playwright() as driver, driver.chromium.launch(executable_path=program, args=["--no-sandbox"]) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800}, bypass_csp=True)
        family = psutil.Process().children(recursive=True)
        yield page, next(member for member in family if "--remote-debugging-pipe" in member.cmdline())


def use(address: str, count: int) -> dict:
    """Seconds of what a person does in the grid, and the browser's memory."""
    with browsed() as (page, process):
        complaints = []
        page.on("pageerror", lambda error: complaints.append(str(error)))

        def load() -> None:
            page.goto(address)
            page.wait_for_function(THUMBNAILS)

        def choose(field: str, value: str, then: str) -> None:
            page.evaluate(f"""(() => {{ delete document.querySelector('#grid').dataset.ready;
              const field = document.querySelector('{field}'); field.value = '{value}';
              field.dispatchEvent(new Event('{then}', {{bubbles: true}})); }})()""")
            page.wait_for_function(f"document.querySelector('#grid').dataset.ready === '0' && {THUMBNAILS}")

        seconds = {"first_load": timed(load), "second_load": timed(load)}
        at_first = mib(process.pid)
        seconds["search"] = timed(lambda: choose("#search", "image09" if count > 9000 else "image000", "input"))
        seconds["search_cleared"] = timed(lambda: choose("#search", "", "input"))
        seconds["sort_by_coverage"] = timed(lambda: choose("#sort", "coverage", "change"))
        seconds["sort_by_disagreement"] = timed(lambda: choose("#sort", "disagreement", "change"))
        choose("#sort", "id", "change")

        def scroll() -> None:
            for shown in range(0, count, STRETCH):  # each its own patience: an end that never comes is an error
                down = f"scrollTo(0, document.documentElement.scrollHeight), {TILES}.length"
                page.wait_for_function(f"({down}) >= {min(count, shown + STRETCH)}")

        def back() -> None:
            page.evaluate("scrollTo(0, 0)")
            page.wait_for_function(THUMBNAILS)

        seconds["scroll_to_the_end"] = timed(scroll)
        page.wait_for_function(THUMBNAILS)
        seconds["back_to_the_top"] = timed(back)
        if complaints:
            raise RuntimeError(f"the console said: {complaints}")
        return {"seconds": seconds, "browser_mib": at_first, "browser_scrolled_mib": mib(process.pid)}


def mib(pid: int) -> float:
    """Memory of a process and all that it started."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(member.memory_full_info().pss for member in family) / 2**20


@click.command()
@click.option("--quick", is_flag=True, help="300 images, only to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "inspect.json", show_default=True)
def main(quick: bool, out: Path) -> None:
    images, out = 300 if quick else 10_000, out.absolute()
    with tempfile.TemporaryDirectory(prefix="dsrg-inspect-benchmark-") as name:
        folder = Path(name)
        make_project(folder, images)
        with served(folder) as (address, server, listening):
            at_first = mib(server.pid)
            figures = use(address, images)
            figures["seconds"] = {"listening": listening, **figures["seconds"]}
            figures["live_seeds"] = live_answers(address, grow=False)
            figures["live_growth"] = live_answers(address, grow=True)
            with served(folder, "--edit") as (editing, *_):
                figures["live_points"] = live_points(editing)
            figures |= {"server_mib": at_first, "server_used_mib": mib(server.pid)}
        os.chdir(ROOT)
    table = Table("measured", "")
    for key, value in figures["seconds"].items():
        table.add_row(key, f"{value:.2f} s")
    for key in ("live_seeds", "live_growth", "live_points"):
        table.add_row(key, f"median {figures[key]['median_ms']:.0f} ms, slowest {figures[key]['slowest_ms']:.0f} ms")
    for key in (key for key in figures if key.endswith("_mib")):
        table.add_row(key, f"{figures[key]:.0f} MiB")
    Console().print(table)
    write_figures(out, {"images": images, **figures})


if __name__ == "__main__":
    main()
