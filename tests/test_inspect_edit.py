"""Points set in `dsrg inspect --edit` as people set them, in a headless Chromium: by mouse, touch and keys."""

import ctypes
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
from playwright.sync_api import expect

from dsrg.artifacts.seeds_h5 import read_seeds
from dsrg.data.classes import read_classes
from dsrg.data.index import read_index
from dsrg.sources.points import read_point_rows, read_points
from helpers.inspect_page import (
    INSPECT,
    PIXELS,
    draw_stroke,
    on_image,
    pixels_change,
    serving,
    shows_image,
    start_server,
    wait_until,
)
from helpers.project import run_stage

IMAGE = "train0000"


@pytest.fixture
def folder(finished_copy):
    """Of a finished run, for a test to change."""
    return finished_copy


@pytest.fixture
def server():
    """Starts servers of a folder -> the process and its address."""
    started = []

    def start(folder: Path, port: int = 0, **options: object) -> tuple[ForkProcess, str]:
        started.append(start_server(folder, *INSPECT[:-1], str(port), "--edit", **options))
        return started[-1]

    yield start
    for process, _ in started:
        process.kill()
        process.join()


@pytest.fixture
def address(server, folder):
    return server(folder)[1]


@pytest.fixture
def page(server, new_page):
    """A tab that is closed before its server ends."""
    return new_page()


def open_image(page, address: str, image_id: str = IMAGE) -> None:
    page.goto(f"{address}#{image_id}")
    shows_image(page, image_id)


def choose(page, place: int = 0) -> str:
    """Choose a class by its place among the tools -> its name."""
    button = page.locator("#tools button").nth(place)
    button.click()
    return button.get_attribute("data-class")


def click(page, along: float, down: float) -> None:
    page.mouse.click(*on_image(page, along, down))


def saved(page, count: int) -> None:
    expect(page.locator("#saved")).to_have_text("saved in data/points.csv")
    expect(page.locator("#marks-count")).to_contain_text(f"{count} point")


def marks(folder: Path, image_id: str = IMAGE) -> list[tuple]:
    """(class, radius, places) of each mark in the table."""
    classes = read_classes(folder / "data/classes.txt")
    names = dict(enumerate(["background", *classes])) | {255: "erase"}
    index = read_index(folder / "data/index.csv", classes)
    found = read_points(folder / "data/points.csv", index, classes, tags="add").marks.get(image_id, [])
    return [(names[mark.label], mark.radius, mark.path.tolist()) for mark in found]


def size(folder: Path, image_id: str = IMAGE) -> tuple[int, int]:
    index = read_index(folder / "data/index.csv", read_classes(folder / "data/classes.txt"))
    row = list(index.ids).index(image_id)
    return int(index.widths[row]), int(index.heights[row])


def test_click_stroke_erase_undo_and_reload(page, address, folder):
    open_image(page, address)
    before = page.evaluate(PIXELS)
    click(page, 0.5, 0.5)
    expect(page.locator("#saved")).to_have_text("choose a class first")
    name = choose(page)
    click(page, 0.5, 0.25)
    saved(page, 1)
    pixels_change(page, before)
    width, height = size(folder)
    ((label, radius, ((x, y),)),) = marks(folder)
    assert (label, radius) == (name, 0) and abs(x - width / 2) < 1 and abs(y - height / 4) < 1

    page.keyboard.press("b")
    draw_stroke(page, (0.1, 0.9), (0.5, 0.8), (0.9, 0.9))
    saved(page, 2)
    assert marks(folder)[1][0] == "background" and len(marks(folder)[1][2]) > 5

    page.keyboard.press("x")
    for _ in range(5):
        page.keyboard.press("]")
    click(page, 0.7, 0.5)
    saved(page, 3)
    assert marks(folder)[2][:2] == ("erase", 5)

    page.reload()
    shows_image(page, IMAGE)
    expect(page.locator("#marks-count")).to_contain_text("3 points")
    page.keyboard.press("z")
    saved(page, 2)
    page.keyboard.press("Control+z")
    saved(page, 1)
    assert [mark[0] for mark in marks(folder)] == [name]
    page.click("#marks-count")
    page.locator("#marks button").click()
    saved(page, 0)
    page.click("#undo")
    saved(page, 1)
    page.click("#changes-count")
    changes = page.locator("#changes li")
    expect(changes).to_have_count(1)  # what is undone is none
    expect(changes).to_contain_text(f"{IMAGE}+ {name}, ")
    assert page.inner_text("#remake") == "dvc repro make_seeds"
    assert [mark[0] for mark in marks(folder)] == [name]


def test_seeds_answer_at_once_by_the_stage_s_own_rule(page, address, folder):
    """What the page shows under a point is what `make_seeds` then writes; the pointer need not move for it."""
    open_image(page, address)
    page.mouse.move(*on_image(page, 0.02, 0.02))
    expect(page.locator("#readout")).to_contain_text("seeds: ")
    choose(page)
    click(page, 0.02, 0.02)
    saved(page, 1)
    name = marks(folder)[0][0]
    expect(page.locator("#readout")).to_contain_text(f"seeds: {name}")
    page.keyboard.press("z")
    expect(page.locator("#readout")).not_to_contain_text(f"seeds: {name}")
    click(page, 0.02, 0.02)
    saved(page, 1)
    run_stage("make_seeds")
    classes = read_classes(folder / "data/classes.txt")
    made = read_seeds(folder / "data/seeds.h5", classes=classes)
    assert made.in_order([IMAGE])[0][0, 0] == classes.index(name) + 1, "the cell in the corner"


def test_by_keys_alone(page, address, folder):
    open_image(page, address)
    page.locator("#canvas").focus()
    page.keyboard.press("q")
    for key in ("ArrowUp", "ArrowLeft", "Shift+ArrowLeft", "Enter"):
        page.keyboard.press(key)
    saved(page, 1)
    page.keyboard.press("b")
    page.keyboard.press("l")
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("l")
    saved(page, 2)
    width, height = size(folder)
    (_, _, (point,)), (name, _, path) = marks(folder)
    assert point[0] == pytest.approx(width / 2 - 1 - max(width, height) / 40, abs=0.2)
    assert name == "background" and len(path) == 5 and path[-1][1] > path[0][1]
    page.keyboard.press("l")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")  # gives the stroke up, and stays with the image
    assert page.is_visible("#viewer") and len(marks(folder)) == 2


def test_a_phone(address, new_page, folder):
    page = new_page(390, 780, mobile=True)
    open_image(page, address)
    choose(page)
    page.mouse.click(*on_image(page, 0.3, 0.4))
    draw_stroke(page, (0.2, 0.2), (0.6, 0.3))
    saved(page, 2)
    assert [len(path) > 1 for *_, path in marks(folder)] == [False, True]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_two_windows_at_once_and_an_editor_of_text(address, new_page, folder):
    """None writes over what another wrote."""
    one, two = new_page(), new_page()
    for page in (one, two):
        open_image(page, address)
        choose(page)
    click(one, 0.2, 0.2)
    saved(one, 1)
    table = folder / "data/points.csv"
    table.write_text(table.read_text().replace("stroke", "stroke,note", 1).replace("\ntrain0000", "\n train0000"))
    lines = table.read_text().splitlines()
    table.write_text(
        "\n".join([lines[0], *(f"{line},mine" for line in lines[1:]), "train0001,1,1,background,,,hm", ""])
    )
    click(two, 0.8, 0.8)
    saved(two, 2)
    assert len(marks(folder)) == 2 and len(marks(folder, "train0001")) == 1
    assert [dict(row.more)["note"] for row in read_point_rows(table)] == ["mine", "hm", ""]
    one.evaluate("dispatchEvent(new Event('focus'))")
    expect(one.locator("#marks-count")).to_contain_text("2 points")
    one.keyboard.press("z")
    saved(one, 1)
    assert len(marks(folder)) == 1


def test_undo_takes_the_last_mark_even_before_it_is_saved(page, address, folder):
    open_image(page, address)
    name = choose(page)
    click(page, 0.2, 0.2)
    saved(page, 1)
    held = []
    page.route("**/api/points/**", lambda route: held.append(route), times=1)
    page.keyboard.press("b")
    with page.expect_request("**/api/points/**"):
        click(page, 0.5, 0.5)
    page.keyboard.press("z")
    expect(page.locator("#marks-count")).to_contain_text("1 point")
    held[0].continue_()
    saved(page, 1)
    assert [mark[0] for mark in marks(folder)] == [name]


def test_a_killed_server_loses_nothing(browser, server, folder):
    context = browser.new_context()
    page = context.new_page()
    process, address = server(folder)
    open_image(page, address)
    choose(page)
    click(page, 0.2, 0.2)
    saved(page, 1)
    process.kill()
    process.join()
    click(page, 0.8, 0.8)
    expect(page.locator("#saved")).to_have_text("1 not saved yet: the server does not answer")
    assert len(marks(folder)) == 1
    again = server(folder, int(address.split(":")[2].split("/")[0]))[1]
    expect(page.locator("#saved")).to_contain_text("wrong token; open the address that")
    open_image(page, again)
    saved(page, 2)
    assert len(marks(folder)) == 2
    context.close()


def drop_power_over_permissions() -> None:
    """Root may write everywhere; without its capabilities it is as others are."""
    version, none = (ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(version, none) == 0


@pytest.mark.parametrize("what", ["folder", "table", "null", "broken"])
def test_what_cannot_be_written_is_said_before_the_first_click(page, server, folder, what):
    table, params = folder / "data/points.csv", folder / "params.yaml"
    if what == "null":
        params.write_text(params.read_text().replace("points: data/points.csv", "points: null"))
    elif what == "broken":
        table.write_text("image,x,y,class\nnobody,1,1,background\n")
    else:
        (table if what == "table" else table.parent).chmod(0o444 if what == "table" else 0o555)
    _, address = server(folder, first=drop_power_over_permissions)
    open_image(page, address)
    table.parent.chmod(0o755)
    said = {"null": "data.points is null", "broken": "no image 'nobody'"}.get(what, "you may not write there")
    expect(page.locator("#read-only")).to_contain_text(said)
    assert page.locator("#tools button").first.is_disabled()
    click(page, 0.5, 0.5)
    page.wait_for_timeout(200)
    assert page.locator("#saved").inner_text() == ""


def test_a_thousand_points_on_an_image(page, server, folder):
    width, height = size(folder)
    rows = [f"{IMAGE},{k % 40 * width / 40},{k // 40 * height / 25},background,," for k in range(1000)]
    (folder / "data/points.csv").write_text("\n".join(["image,x,y,class,radius,stroke", *rows, ""]))
    open_image(page, server(folder)[1])
    expect(page.locator("#marks-count")).to_have_text("1000 points and strokes here, the newest 100 of them below")
    choose(page)
    click(page, 0.5, 0.5)
    saved(page, 1001)
    wait_until(page, "document.querySelector('#took').innerText.endsWith(' ms')")
    assert len(marks(folder)) == 1001


def test_a_class_that_is_no_tag(page, server, folder):
    open_image(page, server(folder)[1])
    other = page.locator("#other-class option").nth(1).get_attribute("value")
    page.select_option("#other-class", other)
    expect(page.locator("#tag-note")).to_contain_text(f"{other} is no tag of this image: its first point adds it")
    click(page, 0.5, 0.5)
    saved(page, 1)
    expect(page.locator("#saved")).to_have_text("saved in data/points.csv")
    assert [mark[0] for mark in marks(folder)] == [other]


def test_a_class_that_is_refused_is_not_written(browser, server, folder):
    """The browser notes the refusal in its console, so this tab is one of its own."""
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("points_tags: add", "points_tags: refuse"))
    page = browser.new_context().new_page()
    open_image(page, server(folder)[1])
    page.select_option("#other-class", index=1)
    click(page, 0.5, 0.5)
    expect(page.locator("#problem")).to_contain_text("is no tag of train0000; tag the image with it")
    assert marks(folder) == []
    page.context.close()


def test_without_edit_nothing_can_be_set(page, folder):
    before = (folder / "data/points.csv").read_bytes()
    with serving(folder, *INSPECT) as address:
        assert "token" not in address
        open_image(page, address)
        assert page.is_hidden("#editing")
        click(page, 0.5, 0.5)
        page.wait_for_timeout(200)
    assert (folder / "data/points.csv").read_bytes() == before
