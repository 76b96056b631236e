"""What tests of `dsrg inspect` in a browser look at and wait for."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

from dsrg.commands import main

INSPECT = ("inspect", "--no-browser", "--port", "0")

# of the pixels of the large image, as it is shown
PIXELS = """(() => {
  const {width, height} = document.querySelector("#canvas");
  const data = document.querySelector("#canvas").getContext("2d").getImageData(0, 0, width, height).data;
  let hash = 0;
  for (const value of data) hash = (hash * 31 + value) | 0;
  return hash;
})()"""


def wait_until(page, condition: str) -> None:
    """Until an expression of JavaScript is true. (The page's policy forbids Playwright's wait_for_function.)"""
    deadline = time.monotonic() + 120
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"never true: {condition}"
        page.wait_for_timeout(30)


def shows_image(page, image_id: str) -> None:
    page.wait_for_selector(f"#viewer[data-ready='{image_id}']")


def pixels_change(page, before: int) -> None:
    wait_until(page, f"{PIXELS} !== {before}")


def start_server(folder: Path, *command: str, first: Callable[[], object] = os.getpid) -> tuple[ForkProcess, str]:
    """`dsrg COMMAND`, or Python's code after "-c", in a process of its own in `folder`, and the address that it prints.

    A fork starts at once, where a new Python would import torch again. first: what it calls before all else.
    """
    end, pipe = os.pipe()
    process = get_context("fork").Process(target=_serve, args=(folder, command, pipe, first), daemon=True)
    process.start()
    os.close(pipe)
    with open(end) as printed:
        return process, printed.readline().strip()


def _serve(folder: Path, command: tuple[str, ...], pipe: int, first: Callable[[], object]) -> None:
    os.dup2(pipe, 1)
    sys.stdout = open(1, "w", buffering=1, closefd=False)
    os.chdir(folder)
    first()
    exec(command[1], {"__name__": "__main__"}) if command[0] == "-c" else main(command)


@contextmanager
def serving(folder: Path, *command: str) -> Iterator[str]:
    """The address of a server of a project."""
    server, address = start_server(folder, *command)
    yield address
    server.terminate()
    server.join()


def on_image(page, along: float, down: float) -> tuple[float, float]:
    """A place on the screen by its shares of the shown image."""
    box = page.locator("#canvas").bounding_box()
    return box["x"] + along * box["width"], box["y"] + down * box["height"]


def draw_stroke(page, *places: tuple[float, float]) -> None:
    page.mouse.move(*on_image(page, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*on_image(page, *place), steps=5)
    page.mouse.up()
