"""`dsrg inspect` as a person uses it, in a headless Chromium."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import PROGRAM, Chromium
from closure import ROOT
from test_pipeline import run_all

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium: apt-get install chromium")

DESKTOP, PHONE = (1280, 800), (390, 844)
# of the pixels of the large image, as it is shown
PIXELS = """(() => {
  const {width, height} = document.querySelector("#canvas");
  const data = document.querySelector("#canvas").getContext("2d").getImageData(0, 0, width, height).data;
  let hash = 0;
  for (const value of data) hash = (hash * 31 + value) | 0;
  return hash;
})()"""


# the run itself, as a second one beside it
TWICE = """
from dsrg.inspect.project import Project
from dsrg.inspect.server import Other, serve
from dsrg.pipeline import load_stage
stage = load_stage("inspect")
project = Project(file=stage.file, root=stage.data_root, params=stage.params)
serve(project, port=0, ready=lambda url: print(url, flush=True), other=Other("before", project))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return run_all(tmp_path_factory.mktemp("page"), monkeypatch)


@pytest.fixture(scope="module")
def address(folder):
    """Of a server of the tiny project, in a process of its own, as people start it."""
    yield from serving(folder, "-c", "from dsrg.cli import main; main()", "inspect", "--no-browser", "--port", "0")


@pytest.fixture
def twice(folder):
    """Of a server of two runs."""
    yield from serving(folder, "-c", TWICE)


def serving(folder: Path, *arguments: str) -> Iterator[str]:
    with subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        yield server.stdout.readline().strip()
        server.terminate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.fixture
def page(browser, address):
    """The page, freshly loaded. Whatever a test does, nothing may be asked for elsewhere and nothing complained of."""
    browser.errors.clear()
    browser.requests.clear()
    browser.size(*DESKTOP)
    browser.send("Page.navigate", url="about:blank")
    browser.send("Page.navigate", url=address)
    browser.wait("document.querySelectorAll('.tile').length === 16")
    yield browser
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith((address, "about:", "data:"))] == []


def open_image(page: Chromium, image_id: str) -> None:
    page.click(f'[data-id="{image_id}"]')
    shown(page, image_id)


def shown(page: Chromium, image_id: str) -> None:
    page.wait(f"document.querySelector('#viewer')?.dataset.ready === '{image_id}'")


def ids(page: Chromium) -> list[str]:
    return page.run("[...document.querySelectorAll('.tile')].map(tile => tile.dataset.id)")


def choose(page: Chromium, selector: str, value: str) -> None:
    one = f"document.querySelector('{selector}')"
    page.run(f"{one}.value = {json.dumps(value)}; {one}.dispatchEvent(new Event('change', {{bubbles: true}}))")


def set_slider(page: Chromium, key: str, value: float) -> None:
    """Move a threshold and wait for its answer."""
    place = round(100 * value)
    page.run(
        f"(() => {{ const slider = document.getElementById('slider-{key}'); slider.value = {place};"
        " slider.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    asked = f"document.querySelector('#coverage').dataset.asked?.split(',').includes('{value:g}')"
    page.wait(asked)


def is_on(page: Chromium, key: str) -> bool:
    return page.run(f"document.getElementById('layer-{key}').checked")


def text(page: Chromium, selector: str) -> str:
    return page.run(f"document.querySelector('{selector}').innerText")


def test_the_grid_comes_up_with_its_thumbnails(page):
    page.wait("[...document.querySelectorAll('.tile img')].slice(0, 6).every(image => image.naturalWidth > 0)")
    assert text(page, "#total") == "16 images"
    assert ids(page)[0] == "train0000" and text(page, "#missing") == ""


def test_filters(page):
    choose(page, "#split", "val")
    page.wait("document.querySelectorAll('.tile').length === 4")
    choose(page, "#split", "")
    page.wait("document.querySelectorAll('.tile').length === 16")
    page.press("/")
    page.send("Input.insertText", text="000")
    page.wait("document.querySelectorAll('.tile').length === 14")
    page.send("Input.insertText", text="3")
    page.wait("document.querySelectorAll('.tile').length === 2")
    assert ids(page) == ["train0003", "val0003"]
    choose(page, "#tag", page.run("document.querySelector('#tag').options[1].value"))
    page.wait("document.querySelector('#total').innerText !== '2 images'")


def test_sorting(page):
    choose(page, "#sort", "coverage")
    page.wait("document.querySelector('#total').innerText === '16 images, 12 of them with a value'")
    lines = page.run("[...document.querySelectorAll('.tile span:last-child')].map(line => line.textContent)")
    shares = [float(line.split(" %")[0]) for line in lines[:12]]
    assert shares == sorted(shares) and lines[-1] == "val"
    choose(page, "#sort", "iou")
    page.wait("document.querySelector('#total').innerText === '4 images'")
    tiles = page.run("[...document.querySelectorAll('.tile')].map(tile => tile.textContent)")
    assert all(" iou" in tile for tile in tiles)


def test_layers_switch_and_fade(page):
    open_image(page, "train0000")
    assert is_on(page, "image") and is_on(page, "seeds") and not is_on(page, "saliency")
    seen = {page.run(PIXELS)}
    for key in ("saliency", "crf", "grown", "pseudo", "saliency"):
        page.click(f"#layer-{key}")
        seen.add(page.run(PIXELS))
    assert len(seen) == 6
    before = page.run(PIXELS)
    page.run(
        "(() => { const fade = document.querySelector('#layer-seeds').closest('li').querySelector('[type=range]');"
        " fade.value = 0.1; fade.dispatchEvent(new Event('input')); })()"
    )
    assert page.run(PIXELS) != before


def test_prediction_comes_when_it_is_asked_for(page):
    open_image(page, "train0001")
    assert not [url for url in page.requests if "/api/prediction" in url]
    before = page.run(PIXELS)
    page.click("#layer-prediction")
    page.wait("document.querySelector('#layer-prediction').closest('li').innerText.trim().endsWith('prediction')")
    page.wait(f"{PIXELS} !== {before}")
    assert len([url for url in page.requests if "/api/prediction" in url]) == 1


def test_an_evaluation_image_shows_prediction_and_ground_truth(page):
    open_image(page, "val0000")
    assert is_on(page, "prediction") and not is_on(page, "truth")
    before = page.run(PIXELS)
    page.click("#layer-truth")
    assert page.run(PIXELS) != before
    assert page.run("document.querySelector('#tuning').hidden") is True


def test_a_slider_changes_pixels_and_tells_what_to_run(page):
    open_image(page, "train0000")
    assert text(page, "#command") == "move a threshold"
    before = page.run(PIXELS)
    set_slider(page, "seeds.bg_thresh", 0.9)
    page.wait(f"{PIXELS} !== {before}")
    assert text(page, "#command") == "dvc exp run -S seeds.bg_thresh=0.9"
    page.wait("document.querySelector('#coverage').innerText.includes('seeds of all 12 images')")
    set_slider(page, "seeds.fg_thresh", 0.05)
    assert text(page, "#command") == "dvc exp run -S seeds.fg_thresh=0.05 -S seeds.bg_thresh=0.9"
    page.click("#reset")
    page.wait(f"{PIXELS} === {before}")
    assert text(page, "#command") == "move a threshold"


def test_growth_thresholds_grow_anew(page):
    open_image(page, "train0000")
    set_slider(page, "grow.fg_thresh", 0.99)
    page.wait("document.querySelector('#coverage').innerText.includes('growth of the recorded images')")
    assert is_on(page, "regrown")
    before = page.run(PIXELS)
    set_slider(page, "grow.fg_thresh", 0)
    set_slider(page, "grow.bg_thresh", 0)
    page.wait(f"{PIXELS} !== {before}")
    assert text(page, "#command") == "dvc exp run -S grow.fg_thresh=0.0 -S grow.bg_thresh=0.0"


def test_the_line_is_copied(page, address):
    page.send("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    open_image(page, "train0000")
    set_slider(page, "seeds.fg_thresh", 0.33)
    page.click("#copy")
    page.wait("document.querySelector('#copy').innerText === 'copied'")
    assert page.run("navigator.clipboard.readText()") == "dvc exp run -S seeds.fg_thresh=0.33"


def test_pointing_tells_the_values(page):
    open_image(page, "train0000")
    page.mouse("mouseMoved", *page.middle("#canvas"))
    page.wait("document.querySelector('#readout').innerText.includes('saliency')")
    told = text(page, "#readout")
    assert "seeds: " in told and "CAM " in told
    page.press("9")
    page.wait("document.querySelector('#layer-prediction').checked")
    page.wait("document.querySelector('#layers').innerText.includes('working') === false")
    x, y = page.middle("#canvas")
    page.mouse("mouseMoved", x + 2, y)
    page.wait("document.querySelector('#readout').innerText.includes('s probability ')")


def test_the_network_s_output_is_a_layer_with_its_probability(page):
    """It comes with growing anew, by the digit after the CRF of the seeds."""
    open_image(page, "train0000")
    for on in (["crf"], ["deciding"], []):
        page.press("5")
        assert [key for key in ("crf", "deciding") if is_on(page, key)] == on
    before = page.run(PIXELS)
    page.click("#layer-deciding")
    page.wait(f"{PIXELS} !== {before}")
    page.mouse("mouseMoved", *page.middle("#canvas"))
    page.wait("document.querySelector('#readout').innerText.includes('(probability ')")


def test_tiles_out_of_sight_hold_no_picture(page):
    """However far one scrolls, what the browser keeps is bounded; what comes back into sight looks as before."""
    holding = "[...document.querySelectorAll('.tile img')].map(image => image.naturalWidth > 0)"
    page.size(300, 200)
    page.run("document.body.style.paddingBottom = '4000px'")  # room to scroll the few tiles away
    page.wait(f"{holding}[0]")
    height = page.run("document.querySelector('.tile').offsetHeight")
    page.run("scrollTo(0, document.body.scrollHeight)")
    page.wait(f"!{holding}.includes(true)")
    assert page.run("document.querySelector('.tile').offsetHeight") == height
    page.run("scrollTo(0, 0)")
    page.wait(f"{holding}[0]")
    page.run("document.body.style.paddingBottom = ''")


@pytest.fixture
def three_at_once(page, address):
    """The page asks for three images where it asks for a hundred."""
    wrap = "const plain = fetch; window.fetch = path => plain(path.replace('count=100', 'count=3'))"
    number = page.send("Page.addScriptToEvaluateOnNewDocument", source=wrap)["identifier"]
    yield lambda: page.send("Page.navigate", url=f"{address}?again")
    page.send("Page.removeScriptToEvaluateOnNewDocument", identifier=number)


def test_a_large_window_is_filled(page, three_at_once):
    """Also when what is asked for at once does not reach its end, so that there is nothing to scroll."""
    three_at_once()
    page.wait("document.querySelectorAll('.tile').length === 16")
    assert sum("count=3" in url for url in page.requests) == 6
    assert len(set(ids(page))) == 16


def test_the_end_is_reached_however_fast_one_scrolls(page, three_at_once):
    page.size(300, 200)
    three_at_once()
    page.wait("document.querySelectorAll('.tile').length > 0")
    page.wait("(scrollTo(0, document.documentElement.scrollHeight), document.querySelectorAll('.tile').length === 16)")
    assert len(set(ids(page))) == 16


def test_keys(page):
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert page.run("document.activeElement.dataset.id") == "train0001"
    page.press("Enter")
    shown(page, "train0001")
    page.press("ArrowLeft")
    shown(page, "train0000")
    before = page.run(PIXELS)
    page.press("1")
    assert not is_on(page, "image") and page.run(PIXELS) != before
    page.press("1")
    assert page.run(PIXELS) == before
    last = page.run("document.querySelector('#step').value")
    page.press("ArrowDown")
    assert is_on(page, "grown") and int(page.run("document.querySelector('#step').value")) == int(last) - 1
    page.press("Escape")
    page.wait("document.querySelector('#viewer').hidden")
    assert page.run("document.activeElement.dataset.id") == "train0000"


def test_a_digit_means_the_same_layer_in_every_image(page):
    tagged = next(image_id for image_id, count in tags(page).items() if count == 2 and image_id.startswith("train"))
    open_image(page, tagged)
    on = []
    for _ in range(3):  # 2 goes through the classes
        page.press("2")
        on.append(page.run("document.querySelectorAll('[id^=layer-cam]:checked').length"))
    assert on == [1, 1, 0]
    page.press("8")
    assert is_on(page, "pseudo")
    page.press("ArrowRight")
    page.wait(f"document.querySelector('#title').innerText !== '{tagged}'")
    page.wait("document.querySelector('#viewer').dataset.ready === document.querySelector('#title').innerText")
    assert is_on(page, "pseudo")
    page.press("8")
    assert not is_on(page, "pseudo")


def tags(page: Chromium) -> dict[str, int]:
    return page.run(
        "fetch('/api/images').then(a => a.json()).then(a => Object.fromEntries(a.rows.map(r => [r.id, r.tags.length])))"
    )


def test_growth_plays(page):
    open_image(page, "train0000")
    page.run(
        "window.seen = []; new MutationObserver(() => seen.push("
        "[document.querySelector('#step').value, document.querySelector('#play').innerText].join(' ')"
        ")).observe(document.querySelector('#step-number'), {childList: true}); 0"
    )
    page.press(" ")
    page.wait("seen.length >= 3 && document.querySelector('#play').innerText === 'play'")
    assert page.run("seen") == ["0 stop", "1 stop", "2 stop"]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_everything_fits_the_width(page, size, tmp_path):
    """Nothing to scroll sideways, the sliders wide enough for a finger; on the desktop all of it on one screen."""
    page.size(*size, mobile=size == PHONE)
    assert page.run("document.documentElement.scrollWidth") <= size[0]
    open_image(page, "train0000")
    set_slider(page, "grow.fg_thresh", 0.11)
    assert page.run("document.documentElement.scrollWidth") <= size[0]
    assert page.run("document.getElementById('slider-seeds.fg_thresh').getBoundingClientRect().width") > 120
    if size == DESKTOP:
        assert page.run("document.querySelector('#copy').getBoundingClientRect().bottom") <= size[1]
    else:
        page.run("document.querySelector('#copy').scrollIntoView()")
        box = page.run("document.querySelector('#canvas').getBoundingClientRect().toJSON()")
        assert box["top"] >= 0 and box["height"] > 100, "the image stays in sight of the sliders"
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_two_runs_side_by_side(browser, twice):
    browser.errors.clear()
    browser.size(*DESKTOP)
    browser.send("Page.navigate", url=f"{twice}#train0000")
    shown(browser, "train0000")
    other = PIXELS.replace("#canvas", "#other")
    assert browser.run(PIXELS) == browser.run(other) and text(browser, "#beside figcaption") == "before"
    plain = browser.run(other)
    browser.press("3")
    assert browser.run(PIXELS) == browser.run(other) != plain, "layers are switched in both"
    browser.press("3")
    set_slider(browser, "seeds.bg_thresh", 0.9)
    browser.wait(f"{PIXELS} !== {plain}")
    assert browser.run(other) == plain, "thresholds are those of this run"
    for selector in ("#canvas", "#other"):
        browser.mouse("mouseMoved", *browser.middle(selector))
        browser.wait("document.querySelector('#readout').innerText.startsWith('this run: seeds: ')")
        assert "before: seeds: " in text(browser, "#readout")
        browser.run("document.querySelector('#readout').textContent = ''")
    assert browser.errors == []


def test_an_address_leads_to_an_image(browser, address):
    browser.size(*DESKTOP)
    browser.send("Page.navigate", url="about:blank")
    browser.send("Page.navigate", url=f"{address}#train0002")
    shown(browser, "train0002")


def test_the_page_names_no_other_place():
    """Not even in what it might load later."""
    for name in ("page.html", "page.css", "page.js", "drawing.js"):
        source = (ROOT / "dsrg" / "inspect" / name).read_text(encoding="utf-8")
        assert "http" not in source and "//" not in source.replace("// ", ""), name
    assert "page.html" in {path.name for path in Path(ROOT / "dsrg" / "inspect").iterdir()}
