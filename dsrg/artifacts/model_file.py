"""Model files: weights with everything needed to use them (classes, network, input size).

A torch archive of tensors and plain values, loaded with weights_only, so a file from elsewhere can run no code. It
carries a sha256 of all that it says: torch itself loads damaged weights without a word.
"""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dsrg.data.classes import MOST_CLASSES
from dsrg.errors import InputError
from dsrg.files import atomic_file

FORMAT, VERSION = "dsrg-model", 3
DRAWS = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


@dataclass(frozen=True)
class Model:
    """kind "classifier" or "segmenter"; network: the builder's arguments; size: side of the training square, pixels."""

    kind: str
    classes: list[str]
    network: dict
    size: int
    weights: dict[str, Tensor]


def save_model(path: Path, model: Model) -> None:
    """Write a model file, atomically; the same model gives the same bytes."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.weights.items()}
    content = {"format": FORMAT, "version": VERSION, **vars(model), "weights": weights}
    content["sha256"] = _digest(content)
    buffer = io.BytesIO()  # torch.save to a path would write the path's name into the file
    torch.save(content, buffer)
    with atomic_file(path, size=len(buffer.getbuffer())) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_model(path: Path, *, kind: str, stage_name: str, classes: list[str] | None = None) -> Model:
    """Read a model file.

    Raises InputError, naming the stage that makes it, when it is not one, damaged, of another kind, or, with `classes`,
    trained for others.
    """
    advice = f"run the stage `{stage_name}` again"
    try:
        _refuse_packed(path)
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
        sha256 = content.pop("sha256")
        model = Model(**{key: value for key, value in content.items() if key not in ("format", "version")})
        _refuse_odd(model)
        found = _digest(content)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a complete model ({' '.join(str(error).split())[:200]}); {advice}") from None
    if found != sha256:
        raise InputError(f"{path}: damaged (sha256 {found[:12]}..., it says {sha256!s:.12}...); {advice}")
    if model.kind != kind:
        raise InputError(f"{path}: holds a {model.kind}, expected a {kind}; {advice}")
    if classes is not None and model.classes != classes:
        theirs, ours = (", ".join(names) for names in (model.classes, classes))
        raise InputError(f"{path}: trained for the classes {theirs}; expected {ours}; {advice}")
    return model


def built(make: Callable[..., nn.Module], model: Model, *, path: Path, stage_name: str) -> nn.Module:
    """The network of a model file, make(classes=C, **network), with its weights.

    Raises InputError when there is no such network, or the weights do not fit it.
    """
    try:
        with torch.device("meta"), _Undrawn():  # first without memory: the file may ask for any
            sketch = make(classes=len(model.classes), **model.network)
    except Exception as error:  # what the file asks for can be anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: describes no network ({reason}); run the stage `{stage_name}` again") from None
    refuse_misfit(sketch, model, path=path, stage_name=stage_name)
    with _Undrawn():
        network = make(classes=len(model.classes), **model.network)
    network.load_state_dict(model.weights)
    return network


class _Undrawn(TorchFunctionMode):
    """New weights are left as they are instead of drawn: time saved where all of them are loaded afterwards."""

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        kwargs = kwargs or {}
        if function in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def load_weights(network: nn.Module, path: Path, *, kind: str, stage_name: str, classes: list[str]) -> None:
    """Fill a network with the weights of a model file, see `load_model`. Raises InputError where they do not fit."""
    model = load_model(path, kind=kind, stage_name=stage_name, classes=classes)
    refuse_misfit(network, model, path=path, stage_name=stage_name)
    network.load_state_dict(model.weights)


def refuse_misfit(network: nn.Module, model: Model, *, path: Path, stage_name: str) -> None:
    """Raises InputError with every weight of a model file that differs from the network's in name or shape."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in model.weights.items()}
    problems = [
        f"{path}: {name}: {given.get(name, 'missing')}, the network needs {own.get(name, 'no such weight')}"
        for name in sorted(own.keys() | given.keys())
        if own.get(name) != given.get(name)
    ]
    if problems:
        raise InputError([*problems, f"{path}: its weights do not fit the network; run the stage `{stage_name}` again"])


def _refuse_packed(path: Path) -> None:
    """torch.save stores; what is packed could unpack to anything."""
    try:
        with ZipFile(path) as archive:
            members = archive.infolist()
    except (BadZipFile, ValueError, NotImplementedError, UnicodeDecodeError, EOFError) as error:
        raise ValueError(f"no torch archive: {error}") from None
    size = path.stat().st_size
    if any(member.compress_type != ZIP_STORED for member in members) or sum(m.file_size for m in members) > size:
        raise ValueError("a packed archive, which torch does not write")


def _refuse_odd(model: Model) -> None:
    """Raises TypeError for content of other types than Model's, and for tensors that stand for more than they hold."""
    kinds = {"kind": str, "classes": list, "network": dict, "size": int, "weights": dict}
    if odd := [field.name for field in fields(model) if type(getattr(model, field.name)) is not kinds[field.name]]:
        raise TypeError(f"{', '.join(odd)} of another type")
    if not 0 < len(model.classes) <= MOST_CLASSES:
        raise ValueError(f"{len(model.classes)} classes")
    if any(type(name) is not str for name in [*model.classes, *model.network, *model.weights]):
        raise TypeError("names that are no text")
    for name, value in model.weights.items():
        if type(value) is not Tensor or value.layout != torch.strided or not value.is_contiguous():
            raise TypeError(f"{name} is no plain tensor")


def _digest(content: dict) -> str:
    """sha256 of plain values, as JSON, and of the weights' names, types, shapes and bytes."""
    weights = content["weights"]
    kinds = {name: [str(value.dtype), list(value.shape)] for name, value in weights.items()}
    plain = {key: value for key, value in content.items() if key != "sha256"} | {"weights": kinds}
    digest = hashlib.sha256(json.dumps(plain).encode())
    for value in weights.values():
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
