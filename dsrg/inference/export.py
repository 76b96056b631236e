"""Trained networks for other programs: pixels in, masks out, as an ONNX file or a torch.export program."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dsrg.errors import InputError
from dsrg.files import atomic_file
from dsrg.inference.preprocess import scaled_side
from dsrg.params import PredictParams

FORMATS = ("onnx", "torch")
INPUT, OUTPUTS = "images", ("labels", "probabilities")
OPSET = 18
TOLERANCE = 1e-3  # of probabilities between PyTorch and the file
CHECKED_SIZES = 4


class Deployed(nn.Module):
    """Images uint8 (B, 3, H, W) RGB -> labels uint8 (B, H, W) and probabilities float (B, C+1, H, W).

    The same as `dsrg predict` with the same settings, but for roundings: here nothing is rounded between warping to the
    network's square and the network itself, and an image larger than `max_side` is not scaled down before.
    """

    def __init__(self, network: nn.Module, settings: PredictParams, *, size: int) -> None:
        super().__init__()
        if settings.shape != "square":
            raise ValueError(f"shape: expected square, not {settings.shape}: the network's own input must be fixed")
        self.network = network.requires_grad_(False)
        self.sides = [scaled_side(size, scale) for scale in settings.scales]
        self.flip, self.mean = settings.flip, settings.merge == "mean"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(())
        for side in self.sides:
            square = F.interpolate(images.float(), (side, side), mode="bilinear", align_corners=True)
            scores = self.network(square)
            if self.flip:
                scores = scores + self.network(square.flip(3)).flip(3)
            total = total + F.interpolate(scores, images.shape[2:], mode="bilinear", align_corners=True)
        if self.mean:
            total = total / (len(self.sides) * (1 + self.flip))
        return total.argmax(dim=1).to(torch.uint8), total.softmax(dim=1)


def export(deployed: Deployed, path: Path, *, form: str) -> list[tuple[int, int]]:
    """Write a network as "onnx" or "torch" (torch.export, opened by torch.export.load), atomically.

    Batch, height and width are free, from 2 pixels a side. The file is read again, run on images of random sizes and
    compared with PyTorch; returns these sizes (height, width). Raises InputError when a package of the extra
    `export` is missing, or the results differ.
    """
    if form not in FORMATS:
        raise ValueError(f"form: expected one of {', '.join(FORMATS)}, not {form!r}")
    packages = ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ()
    if missing := [package for package in packages if find_spec(package) is None]:
        raise InputError(f"--format onnx: needs {', '.join(missing)}; run: pip install 'dsrg[export]'")
    deployed = deployed.eval().to("cpu")
    sizes = [tuple(size) for size in np.random.default_rng(0).integers(17, 400, (CHECKED_SIZES, 2)).tolist()]
    example = torch.randint(0, 256, (2, 3, 97, 131), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shapes = {INPUT: {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}}
    with atomic_file(path) as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(deployed, (example,), dynamic_shapes=shapes)
        if form == "torch":
            with open(temporary, "wb") as file:  # a path would have to end in .pt2
                torch.export.save(program, file)
        else:
            names = {"input_names": [INPUT], "output_names": list(OUTPUTS)}
            made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, **names)
            temporary.write_bytes(made.model_proto.SerializeToString())
        if fault := difference(deployed, runner(temporary, form=form), sizes):
            raise InputError(
                f"{path}: not written, {fault}; are the versions of torch and onnx those of the extra export?"
            )
    return sizes


def runner(path: Path, *, form: str) -> Callable[[NDArray[np.uint8]], tuple[NDArray, NDArray]]:
    """An exported file as a function: uint8 (B, 3, H, W) -> labels uint8 (B, H, W), probabilities (B, C+1, H, W)."""
    if form == "torch":
        with open(path, "rb") as file:
            program = torch.export.load(file).module()
        return lambda images: tuple(output.numpy() for output in program(torch.from_numpy(images)))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda images: tuple(session.run(list(OUTPUTS), {INPUT: images}))


def difference(deployed: Deployed, run: Callable, sizes: list[tuple[int, int]]) -> str | None:
    """What sets `run` apart from PyTorch, besides roundings, on random images of these sizes; None if nothing does."""
    rng = np.random.default_rng(1)
    for count, (height, width) in enumerate(sizes, start=1):
        images = rng.integers(0, 256, (count % 2 + 1, 3, height, width), dtype=np.uint8)
        expected = [output.numpy() for output in deployed(torch.from_numpy(images))]
        labels, probs = run(images)
        if labels.shape != expected[0].shape or probs.shape != expected[1].shape:
            return f"it gives {labels.shape} and {probs.shape} for images {images.shape}"
        furthest = np.abs(probs - expected[1]).max()
        if not furthest <= TOLERANCE:
            return f"its probabilities are {furthest:.2g} away from PyTorch's on {width} x {height} pixels"
        chosen = np.take_along_axis(expected[1], labels[:, None].astype(np.int64), axis=1)[:, 0]
        if (expected[1].max(axis=1) - chosen).max() > TOLERANCE:
            return f"its labels are not the most probable classes on {width} x {height} pixels"
    return None
