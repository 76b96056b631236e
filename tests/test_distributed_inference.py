"""Seeds, pseudo labels and scores have the same bytes from any number of processes, workers and runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsrg.files import sha256
from helpers import small_inference
from helpers.launchers import without_launcher

OUTS = ("seeds.h5", "labels/00000.tar", "labels/PLACES", "metrics.json")
COUNTS = [(1, 3), (3, 1)]  # processes, workers of each


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    small_inference.save_images(folder)
    return folder


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory) -> Path:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    small_inference.generate(images, folder)
    return folder


def start(images: Path, out: Path, *, processes: int, workers: int) -> subprocess.Popen:
    numbers = {"DSRG_DEVICES": str(processes), "DSRG_WORKERS": str(workers)}
    command = [sys.executable, small_inference.__file__, images, out]
    return subprocess.Popen(
        command, env=without_launcher() | numbers, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def digests(out: Path) -> dict[str, str]:
    return {name: sha256(out / name) for name in OUTS}


def makers(out: Path) -> dict[str, int]:
    """How many files of kept work there are of each kind."""
    return {folder.name: len(list(folder.iterdir())) for folder in (out / "scratch").iterdir()}


def test_same_bytes_from_any_number_of_processes_and_workers(images, alone, tmp_path):
    places = {numbers: tmp_path / "{} {}".format(*numbers) for numbers in COUNTS}
    running = [start(images, out, processes=numbers[0], workers=numbers[1]) for numbers, out in places.items()]
    said = [process.communicate(timeout=500)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(COUNTS), said
    for (processes, _), out, words in zip(COUNTS, places.values(), said, strict=True):
        assert digests(out) == digests(alone)
        assert makers(out) == makers(alone) == {"seeds": 3, "labels": 3, "evaluate": 3}
        assert (f"Starting with {processes} processes" in words) == (processes > 1)


def test_one_killed_ends_all_and_another_number_goes_on(images, alone, tmp_path):
    """The first one would wait for the files of the one that is gone, were it not told."""
    process = start(images, tmp_path, processes=2, workers=1)
    try:
        while not list(tmp_path.glob("scratch/seeds/*.npz")):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        assert process.wait(timeout=60) != 0
    finally:
        process.kill()
    assert not (tmp_path / "metrics.json").exists()
    small_inference.generate(images, tmp_path)
    assert digests(tmp_path) == digests(alone)
