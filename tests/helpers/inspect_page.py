"""What tests of `dsrg inspect` in a browser look at and wait for."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INSPECT = ("-c", "from dsrg.commands import main; main()", "inspect", "--no-browser", "--port", "0")

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
    deadline = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"never true: {condition}"
        page.wait_for_timeout(30)


def shows_image(page, image_id: str) -> None:
    page.wait_for_selector(f"#viewer[data-ready='{image_id}']")


def pixels_change(page, before: int) -> None:
    wait_until(page, f"{PIXELS} !== {before}")


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    """The address of a server of a project, in a process of its own, as people start it."""
    with subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        yield server.stdout.readline().strip()
        server.terminate()


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
