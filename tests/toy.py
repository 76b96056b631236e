"""Small stand-ins that several tests share: images with their index, a params file to change, a bound of memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from ruamel.yaml import YAML

from dsrg.artifacts.label_folder import CHECKSUMS
from dsrg.data.index import Index
from dsrg.files import sha256

torch.set_num_threads(1)  # with small tensors, threads cost more than they bring
ROOT = Path(__file__).resolve().parent.parent


def picture(height: int, width: int, *, seed: int) -> np.ndarray:
    """A smooth random picture, uint8 (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def save_index(root: Path, pictures: dict[str, np.ndarray], present: list[list[int]]) -> Index:
    """PNGs in `root` and the index of them; `present` without the column of background."""
    for image_id, pixels in pictures.items():
        Image.fromarray(pixels).save(root / f"{image_id}.png")
    heights, widths = (np.array([pixels.shape[axis] for pixels in pictures.values()], np.int32) for axis in (0, 1))
    count = len(pictures)
    tags = np.concatenate([np.ones((count, 1), bool), np.array(present, bool)], axis=1)
    paths = [f"{image_id}.png" for image_id in pictures]
    checksums = [sha256(root / path) for path in paths]
    return Index(list(pictures), ["train"] * count, paths, heights, widths, tags, checksums)


def note_checksums(folder: Path) -> None:
    """Make a folder of PNGs one of label maps."""
    lines = (f"{sha256(path)}  {path.name}\n" for path in sorted(folder.glob("*.png")))
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def recipe() -> dict:
    """The params of recipes/shapes.yaml as plain values, free to be changed."""
    return YAML(typ="safe", pure=True).load((ROOT / "recipes/shapes.yaml").read_text(encoding="utf-8"))


@contextmanager
def memory_within(megabytes: int) -> Iterator[None]:
    """What is done meanwhile takes at most so much more than the process has already; held where Linux counts it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        yield
        return
    before = _status("VmRSS")
    yield
    taken = (_status("VmHWM") - before) / 1000
    assert taken < megabytes, f"{taken:.0f} MB"


def _status(name: str) -> int:
    """kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
