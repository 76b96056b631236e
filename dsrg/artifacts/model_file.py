"""Model files: weights with everything needed to use them (classes, network, input size).

A torch archive of tensors and plain values, loaded with weights_only, so a file from elsewhere can run no code.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dsrg.errors import InputError
from dsrg.files import whole_file

FORMAT, VERSION = "dsrg-model", 2


@dataclass(frozen=True)
class Model:
    """kind "classifier" or "segmenter"; network: the builder's arguments; size: side of the training square, pixels."""

    kind: str
    classes: list[str]
    network: dict
    size: int
    weights: dict[str, Tensor]


def save_model(path: Path, model: Model) -> None:
    """Write a model file, whole or not at all; the same model gives the same bytes."""
    content = {"format": FORMAT, "version": VERSION, **vars(model)}
    content["weights"] = {name: value.detach().cpu().contiguous() for name, value in model.weights.items()}
    buffer = io.BytesIO()  # torch.save to a path would write the path's name into the file
    torch.save(content, buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def load_model(path: Path, *, kind: str, made_by: str) -> Model:
    """Read a model file. Raises InputError, naming the stage that makes it, when it is not one or of another kind."""
    advice = f"run the stage `{made_by}` again"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {advice}") from None
    except Exception as error:
        raise InputError(f"{path}: not readable as a model ({' '.join(str(error).split())[:200]}); {advice}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a model file of this program; {advice}")
    if content.get("version") != VERSION:
        raise InputError(f"{path}: version {content.get('version')}, this program reads {VERSION}; {advice}")
    try:
        model = Model(**{key: value for key, value in content.items() if key not in ("format", "version")})
    except TypeError as error:
        raise InputError(f"{path}: not a complete model ({error}); {advice}") from None
    if model.kind != kind:
        raise InputError(f"{path}: holds a {model.kind}, expected a {kind}; {advice}")
    return model
