"""Checkpoints of an unfinished training: one file in the stage's scratch folder, gone when the training ends."""

import io
from pathlib import Path

import torch

from dsrg.files import whole_file, write_text


class Checkpoints:
    """The newest state of one training in `scratch`, with its curves (the text of files) as they were then."""

    def __init__(self, scratch: Path, *curves: Path) -> None:
        self.path, self.curves = scratch / "checkpoint.pt", curves

    def save(self, state: dict) -> None:
        """Write {step, network, optimiser, random}, of tensors and plain values, and the curves, whole or not."""
        buffer = io.BytesIO()
        texts = [path.read_text(encoding="utf-8") for path in self.curves]
        torch.save({**state, "curves": texts}, buffer)
        with whole_file(self.path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def load(self) -> dict | None:
        """The last state saved, its curves put back; None where there is none."""
        if not self.path.is_file():
            return None
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        for path, text in zip(self.curves, state.pop("curves"), strict=True):
            write_text(path, text)
        return state
