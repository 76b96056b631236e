"""Checkpoints of an unfinished training: one file in the stage's scratch folder, gone when the training ends."""

import io
import shutil
from pathlib import Path

import torch

from dsrg.files import whole_file, write_text


class Checkpoints:
    """The newest state of one training in `scratch`, with its curves (the text files of `live`) as they were then."""

    def __init__(self, scratch: Path, live: Path) -> None:
        self.path, self.live = scratch / "checkpoint.pt", live

    def save(self, state: dict) -> None:
        """Write {step, network, optimiser, random}, of tensors and plain values, and the curves, whole or not."""
        files = [path for path in self.live.rglob("*") if path.is_file()]
        curves = {path.relative_to(self.live).as_posix(): path.read_text(encoding="utf-8") for path in files}
        buffer = io.BytesIO()
        torch.save({**state, "curves": curves}, buffer)
        with whole_file(self.path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def load(self) -> dict | None:
        """The last state saved, its curves put back; None where there is none."""
        if not self.path.is_file():
            return None
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        shutil.rmtree(self.live, ignore_errors=True)
        for name, text in state.pop("curves").items():
            write_text(self.live / name, text)
        return state
