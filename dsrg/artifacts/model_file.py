"""Model files: weights with everything needed to use them (classes, network, input size).

A safetensors file, which can run no code. Its metadata has one entry, `dsrg`: JSON of what is not a weight and a sha256
of all that the file says, because safetensors itself loads damaged weights without a word.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dsrg.data.classes import MOST_CLASSES
from dsrg.errors import InputError, one_line
from dsrg.files import atomic_file

FORMAT, VERSION = "dsrg", 4
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
    about = {"version": VERSION, **{key: value for key, value in vars(model).items() if key != "weights"}}
    about["sha256"] = _digest(about, weights)
    content = save(weights, metadata={FORMAT: json.dumps(about)})
    with atomic_file(path, size=len(content)) as temporary:
        temporary.write_bytes(content)


def load_model(path: Path, *, kind: str, stage_name: str, classes: list[str] | None = None) -> Model:
    """Read a model file.

    Raises InputError, naming the stage that makes it, when it is not one, damaged, of another kind, or, with `classes`,
    trained for others.
    """
    advice = f"run the stage `{stage_name}` again"
    about, weights = _read(path, stage_name=stage_name, advice=advice)
    try:
        sha256 = about.pop("sha256")
        found = _digest(about, weights)
        del about["version"]
        model = Model(**about, weights=weights)
        _refuse_odd(model)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a complete model ({one_line(error)}); {advice}") from None
    if found != sha256:
        raise InputError(f"{path}: damaged (sha256 {found[:12]}..., it says {sha256!s:.12}...); {advice}")
    if model.kind != kind:
        raise InputError(f"{path}: holds a {model.kind}, expected a {kind}; {advice}")
    if classes is not None and model.classes != classes:
        theirs, ours = (", ".join(names) for names in (model.classes, classes))
        raise InputError(f"{path}: trained for the classes {theirs}; expected {ours}; {advice}")
    return model


def _read(path: Path, *, stage_name: str, advice: str) -> tuple[dict, dict[str, Tensor]]:
    """What a model file says of itself, of this version, and its weights, unchecked."""
    older = f"a model file of an earlier version (.pt), which is not read any more; run `dvc repro {stage_name}`"
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"PK":  # torch archives are ZIP files
                raise InputError(f"{path}: {older}")
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(FORMAT, "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        if (old := path.with_suffix(".pt")).is_file():
            raise InputError(f"{path}: no such file; {old} is {older}") from None
        raise InputError(f"{path}: no such file; {advice}") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as a model ({one_line(error)}); {advice}") from None
    if not isinstance(about, dict):
        raise InputError(f"{path}: not a model file of this program; {advice}")
    if about.get("version") != VERSION:
        raise InputError(f"{path}: version {about.get('version')!s:.20}, this program reads {VERSION}; {advice}")
    return about, weights


def built(make: Callable[..., nn.Module], model: Model, *, path: Path, stage_name: str) -> nn.Module:
    """The network of a model file, make(classes=C, **network), with its weights.

    Raises InputError when there is no such network, or the weights do not fit it.
    """
    try:
        with torch.device("meta"), _Undrawn():  # first without memory: the file may ask for any
            sketch = make(classes=len(model.classes), **model.network)
    except Exception as error:  # what the file asks for can be anything
        raise InputError(
            f"{path}: describes no network ({one_line(error)}); run the stage `{stage_name}` again"
        ) from None
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


def _refuse_odd(model: Model) -> None:
    """Raises TypeError or ValueError for content of other types than Model's."""
    kinds = {"kind": str, "classes": list, "network": dict, "size": int}
    if odd := [name for name, kind in kinds.items() if type(getattr(model, name)) is not kind]:
        raise TypeError(f"{', '.join(odd)} of another type")
    if not 0 < len(model.classes) <= MOST_CLASSES:
        raise ValueError(f"{len(model.classes)} classes")
    if any(type(name) is not str for name in model.classes):
        raise TypeError("names that are no text")


def _digest(about: dict, weights: dict[str, Tensor]) -> str:
    """sha256 of plain values, as JSON, and of the weights' names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, value in sorted(weights.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
