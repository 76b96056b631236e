"""Shared by all tests: one thread each, because tests run side by side, and where real images may be found."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("DSRG_WORKERS", "1")
os.environ.setdefault("DSRG_DEVICES", "1")
os.environ.setdefault("DSRG_CHECKPOINT_SECONDS", "100000")  # by steps alone, however slow the machine is

import cv2
import hypothesis
import pytest
import torch

from dsrg.runtime import workers
from helpers import ROOT
from helpers.dvc_yaml import STAGES
from helpers.project import run_stage, tiny_project

# in the background or under nohup these are ignored, also by the programs that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
torch.set_num_threads(1)
cv2.setNumThreads(1)
# no test may fail because the machine is busy; CI tries the same random inputs each time, all others new ones
hypothesis.settings.register_profile("steady", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("steady")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Iterator[Path]:
    """The tiny project with all its stages done. Not to be changed: there is `finished_copy` for that."""
    folder = tiny_project(tmp_path_factory.mktemp("finished"))
    with chdir(folder):
        for name in STAGES:
            run_stage(name)

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for name in ("data", "results") for path in (folder / name).rglob("*.*")}

    before = contents()
    yield folder
    assert contents() == before, "a test has changed the run that others read"


@pytest.fixture
def finished_copy(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished project, as the working folder."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def processes(monkeypatch):
    """Sets the number of worker processes; the pool that a test starts ends with the test."""
    workers.pool.cache_clear()
    yield lambda count: monkeypatch.setenv("DSRG_WORKERS", str(count))
    if workers.pool.cache_info().currsize:
        workers.pool().shutdown()
    workers.pool.cache_clear()


@pytest.fixture(scope="module")
def browser():
    """The machine's own Chromium, driven by Playwright; it occupies asyncio, so it ends with the module."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    playwright.expect.set_options(timeout=120_000)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def new_page(browser):
    """Opens a tab of a size, of a phone if `mobile`. None may complain in its console or ask another machine."""
    contexts, complaints, elsewhere = [], [], []

    def open_tab(width: int = 1280, height: int = 800, *, mobile: bool = False):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, is_mobile=mobile))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(120_000)
        tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: elsewhere.append(request.url))
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in elsewhere if not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))] == []


@pytest.fixture
def page(new_page):
    """A tab as large as a desktop's."""
    return new_page()
