"""What tests of `dsrg inspect` in a browser look at and wait for."""

import time

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
