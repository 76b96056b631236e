"""`python -m benchmarks.device`: every part on a machine that lacks most packages, and going on with what was left."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import device, growth
from dsrg.params import load_params
from helpers import ROOT
from helpers.fake_cuda import FakeCuda

LACKING = "dvc pydensecrf pydantic ruamel click rich pycocotools psutil filelock matplotlib jinja2 aiohttp timm onnx"
BARE = f"""
import runpy, sys
from importlib.machinery import PathFinder
found, lacking = PathFinder.find_spec, {LACKING.split()}
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in lacking else found(name, path, target)
PathFinder.find_spec = classmethod(find_spec)
runpy.run_module("benchmarks.device", run_name="__main__")
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """The folder of a quick run on a bare machine: device.json, output, training/."""
    folder = tmp_path_factory.mktemp("bare")
    options = ["--quick", "--out", str(folder / "device.json"), "--training", str(folder / "training")]
    ran = subprocess.run(
        [sys.executable, "-c", BARE, *options], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    (folder / "output").write_text(ran.stdout + ran.stderr)
    assert ran.returncode == 0, ran.stderr
    return folder


def test_all_parts_run_on_a_bare_machine(bare):
    parts = json.loads((bare / "device.json").read_text())["parts"]
    assert list(parts) == list(device.PARTS) and not [name for name in parts if "failed" in parts[name]], parts
    assert parts["parity"]["grown"]["worst"] == parts["parity"]["gradients"]["fp32_gradients"] == 0  # CPU against CPU
    assert 0 < parts["parity"]["gradients"]["bf16_gradients"] < 0.1
    assert list(parts["training"]["stages"])[1:] == list(device.STAGES) and parts["training"]["complete"]
    assert (bare / "training/data/retrain.pt").exists() or list((bare / "training/data").glob("retrain.*"))
    assert "| memory: shapes: predicted_gib | 0.1" in (bare / "output").read_text()


def test_parts_of_images_come_together(bare, tmp_path):
    params = load_params(ROOT / "recipes/shapes.yaml")
    device.pack(bare / "training" / params.data.root, tmp_path, params.data, count=5, most=4000)
    parts = sorted(tmp_path.glob("*.tar"))
    assert len(parts) > 1
    for _ in range(2):
        device._unpack(tmp_path)
    header, *rows = (tmp_path / "pictures/tags.csv").read_text().splitlines()
    assert header == "image,tags" and len(rows) == 5
    assert all((tmp_path / "pictures" / row.split(",")[0]).exists() and row.split(",")[1] for row in rows)


def test_what_is_left_is_done_next_and_what_failed_again(tmp_path, monkeypatch):
    ran, out = Counter(), tmp_path / "device.json"

    def part(name, result):
        return lambda setting: ran.update([name]) or (result() if callable(result) else result)

    parts = {"a": {"x": 1}, "b": lambda: 1 / 0, "c": {"complete": False}, "d": {"y": 2.0}}
    monkeypatch.setattr(device, "PARTS", {name: part(name, result) for name, result in parts.items()})
    for _ in range(2):
        found = device.run(device.Setting(quick=True), out, started=time.monotonic(), minutes=1)
    assert ran == {"a": 1, "b": 2, "c": 2, "d": 1} and found["b"]["failed"].startswith("ZeroDivisionError")
    device.run(device.Setting(quick=True), tmp_path / "late.json", started=time.monotonic() - 31, minutes=1)
    assert ran["a"] == 1  # half of the minute was over


def test_what_is_compared_runs_on_a_fake_gpu():
    params = load_params(ROOT / "recipes/shapes.yaml")
    parts = torch.zeros(2, 3, 41, 41, dtype=torch.uint8), *growth.example(41, images=2)
    with FakeCuda() as cuda:
        found = device._results(params, *(part.to("cuda") for part in parts))
    assert {value.device.type for value in found.values()} == {"cpu"}
    assert cuda.waits.pop("growing._seeded_regions: copy to the host") == 1
    # the test's: each part there, each result back
    assert cuda.waits == Counter({"the test: copy to the device": 4, "the test: copy to the host": len(found)})
