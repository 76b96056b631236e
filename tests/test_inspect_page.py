"""`dsrg inspect` as a person uses it, in a headless Chromium."""

import pytest

from dsrg.inspect.server import KINDS
from helpers import ROOT
from helpers.inspect_page import INSPECT, PIXELS, pixels_change, serving, shows_image, wait_until

# the run itself, as a second one beside it, or one whose seeds differ in the upper third
TWICE = """
from dsrg.inspect.layers import labels_layer
from dsrg.inspect.run import Run
from dsrg.inspect.server import serve
from dsrg.project import load_project
class Elsewhere(Run):
    def layers(self, image_id):
        seeds = self.seeds.seeds[self.seeded[image_id]].copy()
        seeds[:3] = (seeds[:3] + 1) % 7
        changed = labels_layer("seeds", "seeds", seeds, corners=True)
        return [changed if layer["key"] == "seeds" else layer for layer in super().layers(image_id)]
run = Run(load_project())
serve(run, port=0, ready=lambda url: print(url, flush=True), other=KIND(load_project(), name="before"))
"""


@pytest.fixture(scope="module")
def address(browser, finished):
    """Of a server of the tiny project."""
    with serving(finished, *INSPECT) as found:
        yield found


@pytest.fixture
def beside(browser, finished, request):
    """The address of a server of two runs, of which the second is of the class that the test names."""
    with serving(finished, "-c", TWICE.replace("KIND", request.param)) as found:
        yield found


@pytest.fixture
def gallery(page, address):
    """The page with all its tiles."""
    page.goto(address)
    shows_tiles(page, 16)
    return page


def shows_tiles(page, count: int) -> None:
    wait_until(page, f"document.querySelectorAll('.tile').length === {count}")


def open_image(page, image_id: str) -> None:
    page.click(f'[data-id="{image_id}"]')
    shows_image(page, image_id)


def ids(page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('.tile')].map(tile => tile.dataset.id)")


def set_slider(page, key: str, value: float) -> None:
    """Move a threshold and wait for its answer."""
    page.fill(f'[id="slider-{key}"]', f"{100 * value:.0f}")
    wait_until(page, f"document.querySelector('#coverage').dataset.asked?.split(',').includes('{value:g}')")


def is_on(page, key: str) -> bool:
    return page.is_checked(f'[id="layer-{key}"]')


def test_the_grid_comes_up_with_its_thumbnails(gallery):
    wait_until(
        gallery, "[...document.querySelectorAll('.tile img')].slice(0, 6).every(image => image.naturalWidth > 0)"
    )
    assert gallery.inner_text("#total") == "16 images"
    assert ids(gallery)[0] == "train0000" and gallery.inner_text("#missing") == ""


def test_filters(gallery):
    gallery.select_option("#split", "val")
    shows_tiles(gallery, 4)
    gallery.select_option("#split", "")
    shows_tiles(gallery, 16)
    gallery.keyboard.press("/")
    gallery.keyboard.type("000")
    shows_tiles(gallery, 14)
    gallery.keyboard.type("3")
    shows_tiles(gallery, 2)
    assert ids(gallery) == ["train0003", "val0003"]
    gallery.select_option("#tag", index=1)
    wait_until(gallery, "document.querySelector('#total').innerText !== '2 images'")


def test_sorting(gallery):
    gallery.select_option("#sort", "coverage")
    gallery.wait_for_selector("#total:text-is('16 images, 12 of them with a value')")
    lines = gallery.locator(".tile span:last-child").all_text_contents()
    shares = [float(line.split(" %")[0]) for line in lines[:12]]
    assert shares == sorted(shares) and lines[-1] == "val"
    gallery.select_option("#sort", "iou")
    gallery.wait_for_selector("#total:text-is('4 images')")
    assert all(" iou" in tile for tile in gallery.locator(".tile").all_text_contents())
    gallery.select_option("#sort", "clicks")
    assert gallery.input_value("#order") == "descending"
    wait_until(gallery, "/^12 images, \\d+ minutes of clicks$/.test(document.querySelector('#total').innerText)")
    told = gallery.locator(".tile span:last-child").all_text_contents()
    assert any("no seed of " in line or "disagree" in line for line in told)


def test_layers_switch_and_fade(gallery):
    open_image(gallery, "train0000")
    assert is_on(gallery, "image") and is_on(gallery, "seeds") and not is_on(gallery, "saliency")
    seen = {gallery.evaluate(PIXELS)}
    for key in ("saliency", "crf", "grown", "pseudo", "saliency"):
        gallery.click(f"#layer-{key}")
        seen.add(gallery.evaluate(PIXELS))
    assert len(seen) == 6
    before = gallery.evaluate(PIXELS)
    gallery.locator("li", has=gallery.locator("#layer-seeds")).locator("[type=range]").fill("0.1")
    assert gallery.evaluate(PIXELS) != before


def test_prediction_comes_when_it_is_asked_for(gallery):
    asked = []
    gallery.on("request", lambda request: asked.append(request.url) if "/api/prediction" in request.url else None)
    open_image(gallery, "train0001")
    assert asked == []
    before = gallery.evaluate(PIXELS)
    gallery.click("#layer-prediction")
    pixels_change(gallery, before)
    row = gallery.locator("li", has=gallery.locator("#layer-prediction"))
    assert row.inner_text().strip().endswith("prediction")
    assert len(asked) == 1


def test_an_evaluation_image_shows_prediction_and_ground_truth(gallery):
    open_image(gallery, "val0000")
    assert is_on(gallery, "prediction") and not is_on(gallery, "truth")
    before = gallery.evaluate(PIXELS)
    gallery.click("#layer-truth")
    assert gallery.evaluate(PIXELS) != before
    assert gallery.is_hidden("#tuning")


def test_a_slider_changes_pixels_and_tells_what_to_run(gallery):
    open_image(gallery, "train0000")
    assert gallery.inner_text("#command") == "move a threshold"
    before = gallery.evaluate(PIXELS)
    set_slider(gallery, "seeds.bg_thresh", 0.9)
    pixels_change(gallery, before)
    assert gallery.inner_text("#command") == "dvc exp run -S seeds.bg_thresh=0.9"
    gallery.wait_for_selector("#coverage:has-text('seeds of all 12 images')")
    set_slider(gallery, "seeds.fg_thresh", 0.05)
    assert gallery.inner_text("#command") == "dvc exp run -S seeds.fg_thresh=0.05 -S seeds.bg_thresh=0.9"
    gallery.click("#reset")
    wait_until(gallery, f"{PIXELS} === {before}")
    assert gallery.inner_text("#command") == "move a threshold"


def test_growth_thresholds_grow_anew(gallery):
    open_image(gallery, "train0000")
    set_slider(gallery, "grow.fg_thresh", 0.99)
    gallery.wait_for_selector("#coverage:has-text('growth of the recorded images')")
    assert is_on(gallery, "regrown")
    before = gallery.evaluate(PIXELS)
    set_slider(gallery, "grow.fg_thresh", 0)
    set_slider(gallery, "grow.bg_thresh", 0)
    pixels_change(gallery, before)
    assert gallery.inner_text("#command") == "dvc exp run -S grow.fg_thresh=0.0 -S grow.bg_thresh=0.0"


def test_the_line_is_copied(gallery):
    gallery.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_image(gallery, "train0000")
    set_slider(gallery, "seeds.fg_thresh", 0.33)
    gallery.click("#copy")
    gallery.wait_for_selector("#copy:text-is('copied')")
    assert gallery.evaluate("navigator.clipboard.readText()") == "dvc exp run -S seeds.fg_thresh=0.33"


def test_pointing_tells_the_values(gallery):
    open_image(gallery, "train0000")
    gallery.hover("#canvas")
    told = gallery.wait_for_selector("#readout:has-text('saliency')").inner_text()
    assert "seeds: " in told and "CAM " in told
    gallery.keyboard.press("9")
    wait_until(gallery, "!document.querySelector('#layers').innerText.includes('working')")
    assert is_on(gallery, "prediction")
    gallery.hover("#canvas", position={"x": 20, "y": 20})
    gallery.wait_for_selector("#readout:has-text('s probability ')")


def test_the_network_s_output_is_a_layer_with_its_probability(gallery):
    """It comes with growing anew, by the digit after the CRF of the seeds."""
    open_image(gallery, "train0000")
    for on in (["crf"], ["deciding"], []):
        gallery.keyboard.press("5")
        assert [key for key in ("crf", "deciding") if is_on(gallery, key)] == on
    before = gallery.evaluate(PIXELS)
    gallery.click("#layer-deciding")
    pixels_change(gallery, before)
    gallery.hover("#canvas")
    gallery.wait_for_selector("#readout:has-text('(probability ')")


def test_tiles_out_of_sight_hold_no_picture(gallery):
    """However far one scrolls, what the browser keeps is bounded; what comes back into sight looks as before."""
    holding = "[...document.querySelectorAll('.tile img')].map(image => image.naturalWidth > 0)"
    gallery.set_viewport_size({"width": 300, "height": 200})
    gallery.evaluate("document.body.style.paddingBottom = '4000px'")  # room to scroll the few tiles away
    wait_until(gallery, f"{holding}[0]")
    height = gallery.evaluate("document.querySelector('.tile').offsetHeight")
    gallery.evaluate("scrollTo(0, document.body.scrollHeight)")
    wait_until(gallery, f"!{holding}.includes(true)")
    assert gallery.evaluate("document.querySelector('.tile').offsetHeight") == height
    gallery.evaluate("scrollTo(0, 0)")
    wait_until(gallery, f"{holding}[0]")


@pytest.fixture
def three_at_once(page):
    """The addresses asked for by a page that asks for three images where it asks for a hundred."""
    page.add_init_script("const plain = fetch; window.fetch = path => plain(path.replace('count=100', 'count=3'))")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    return asked


def test_a_large_window_is_filled(page, address, three_at_once):
    """Also when what is asked for at once does not reach its end, so that there is nothing to scroll."""
    page.goto(address)
    shows_tiles(page, 16)
    assert sum("count=3" in url for url in three_at_once) == 6
    assert len(set(ids(page))) == 16


def test_the_end_is_reached_however_fast_one_scrolls(page, address, three_at_once):
    page.set_viewport_size({"width": 300, "height": 200})
    page.goto(address)
    page.wait_for_selector(".tile")
    down = "scrollTo(0, document.documentElement.scrollHeight)"
    wait_until(page, f"({down}, document.querySelectorAll('.tile').length === 16)")
    assert len(set(ids(page))) == 16


def test_keys(gallery):
    keys = gallery.keyboard
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    assert gallery.evaluate("document.activeElement.dataset.id") == "train0001"
    keys.press("Enter")
    shows_image(gallery, "train0001")
    keys.press("ArrowLeft")
    shows_image(gallery, "train0000")
    before = gallery.evaluate(PIXELS)
    keys.press("1")
    assert not is_on(gallery, "image") and gallery.evaluate(PIXELS) != before
    keys.press("1")
    assert gallery.evaluate(PIXELS) == before
    last = int(gallery.input_value("#step"))
    keys.press("ArrowDown")
    assert is_on(gallery, "grown") and int(gallery.input_value("#step")) == last - 1
    keys.press("Escape")
    gallery.wait_for_selector("#viewer", state="hidden")
    assert gallery.evaluate("document.activeElement.dataset.id") == "train0000"


def test_a_digit_means_the_same_layer_in_every_image(gallery, address):
    rows = gallery.request.get(f"{address}api/images").json()["rows"]
    tagged = next(row["id"] for row in rows if len(row["tags"]) == 2 and row["id"].startswith("train"))
    open_image(gallery, tagged)
    on = []
    for _ in range(3):  # 2 goes through the classes
        gallery.keyboard.press("2")
        on.append(gallery.locator("[id^=layer-cam]:checked").count())
    assert on == [1, 1, 0]
    gallery.keyboard.press("8")
    assert is_on(gallery, "pseudo")
    gallery.keyboard.press("ArrowRight")
    wait_until(gallery, f"document.querySelector('#title').innerText !== '{tagged}'")
    shows_image(gallery, gallery.inner_text("#title"))
    assert is_on(gallery, "pseudo")
    gallery.keyboard.press("8")
    assert not is_on(gallery, "pseudo")


def test_growth_plays(gallery):
    open_image(gallery, "train0000")
    gallery.evaluate("""() => {
        window.seen = [];
        const [step, play, number] = ['#step', '#play', '#step-number'].map(id => document.querySelector(id));
        new MutationObserver(() => seen.push(`${step.value} ${play.innerText}`)).observe(number, {childList: true});
    }""")
    gallery.keyboard.press(" ")
    wait_until(gallery, "seen.length >= 3 && document.querySelector('#play').innerText === 'play'")
    assert gallery.evaluate("seen") == ["0 stop", "1 stop", "2 stop"]


@pytest.mark.parametrize("mobile", [False, True], ids=["desktop", "phone"])
def test_everything_fits_the_width(new_page, address, mobile):
    """Nothing to scroll sideways, the sliders wide enough for a finger; on the desktop all of it on one screen."""
    width, height = (390, 844) if mobile else (1280, 800)
    page = new_page(width, height, mobile=mobile)
    page.goto(address)
    shows_tiles(page, 16)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    open_image(page, "train0000")
    set_slider(page, "grow.fg_thresh", 0.11)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator('[id="slider-seeds.fg_thresh"]').bounding_box()["width"] > 120
    copy = page.locator("#copy")
    if mobile:
        copy.scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        assert box["y"] >= 0 and box["height"] > 100, "the image stays in sight of the sliders"
    else:
        box = copy.bounding_box()
        assert box["y"] + box["height"] <= height


@pytest.mark.parametrize("beside", ["Run"], indirect=True)
def test_two_runs_side_by_side(page, beside):
    page.goto(f"{beside}#train0000")
    shows_image(page, "train0000")
    other = PIXELS.replace("#canvas", "#other")
    assert page.evaluate(PIXELS) == page.evaluate(other)
    assert page.inner_text("#beside figcaption") == "before"
    plain = page.evaluate(other)
    page.keyboard.press("3")
    assert page.evaluate(PIXELS) == page.evaluate(other) != plain, "layers are switched in both"
    page.keyboard.press("3")
    set_slider(page, "seeds.bg_thresh", 0.9)
    pixels_change(page, plain)
    assert page.evaluate(other) == plain, "thresholds are those of this run"
    for selector in ("#canvas", "#other"):
        page.hover(selector)
        told = page.wait_for_selector("#readout:has-text('this run: seeds: ')").inner_text()
        assert "before: seeds: " in told
        page.evaluate("document.querySelector('#readout').textContent = ''")


@pytest.mark.parametrize("beside", ["Elsewhere"], indirect=True)
def test_where_two_runs_differ(page, beside):
    page.goto(f"{beside}#train0000")
    shows_image(page, "train0000")
    share = page.inner_text("#share")
    assert share.startswith("seeds: ") and share.endswith(" % of the pixels differ")
    assert 20 < float(share.split()[1]) < 45, "a third of the rows, and half a row of the grid at its edge"
    before = page.evaluate(PIXELS)
    page.keyboard.press("d")
    assert page.is_checked("#differing")
    pixels_change(page, before)
    below = """id => { const canvas = document.querySelector(id), y = Math.floor(0.8 * canvas.height);
        return [...canvas.getContext("2d").getImageData(3, y, 1, 1).data] }"""
    assert all(min(page.evaluate(below, selector)) > 200 for selector in ("#canvas", "#other")), "what agrees is veiled"
    page.keyboard.press("d")
    assert page.evaluate(PIXELS) == before
    page.keyboard.press("4")  # the seeds are off
    assert page.inner_text("#share") == "no label map of both runs is on"


def test_the_page_names_no_other_place():
    """Not even in what it might load later."""
    files = [path for path in (ROOT / "dsrg/inspect").iterdir() if path.suffix in KINDS]
    assert len(files) == 8
    for path in files:
        source = path.read_text(encoding="utf-8")
        assert "http" not in source and "//" not in source.replace("// ", ""), path
