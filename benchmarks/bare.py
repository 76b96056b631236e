"""Stand-ins for packages that a machine lent for half an hour may lack, for `benchmarks.device` to run there.

Needed are torch, torchvision, numpy, h5py, lightning-fabric, OpenCV, Pillow and PyYAML. Where pydantic is missing,
params are read and not checked; where ruamel.yaml is, PyYAML reads; tables, command lines and locks do nothing. What is
installed is used. Importing this module is enough.
"""

import re
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from inspect import isfunction
from types import ModuleType
from typing import get_type_hints

IDLE = {"click", "rich", "filelock", "psutil", "matplotlib", "pycocotools", "jinja2"}


class BaseModel:
    """pydantic's, without any checks: values as attributes, sections within sections."""

    model_fields: dict[str, object] = {}
    before: tuple[Callable[[dict], dict], ...] = ()  # validators that change the values

    def __init_subclass__(cls) -> None:
        own = vars(cls).get("__annotations__", {}).items()
        cls.model_fields = cls.model_fields | {key: kind for key, kind in own if "ClassVar" not in str(kind)}
        changing = [name for name, value in vars(cls).items() if getattr(value, "mode", None) == "before"]
        cls.before = (*cls.before, *(getattr(cls, name) for name in changing))

    def __init__(self, **values: object) -> None:
        for change in self.before:
            values = change(values)
        kinds = get_type_hints(type(self))
        for key, value in values.items():
            section = isinstance(value, dict) and isinstance(kinds[key], type) and issubclass(kinds[key], BaseModel)
            vars(self)[key] = kinds[key](**value) if section else value

    @classmethod
    def model_validate(cls, values: dict) -> "BaseModel":
        return cls(**values)

    @classmethod
    def model_construct(cls, **values: object) -> "BaseModel":
        return cls(**values)

    def model_dump(self, *, include: set[str] | None = None, exclude: set[str] | None = None) -> dict:
        kept = {key: value for key, value in vars(self).items() if include is None or key in include}
        kept = {key: value for key, value in kept.items() if key not in (exclude or ())}
        return {key: value.model_dump() if isinstance(value, BaseModel) else value for key, value in kept.items()}

    def model_copy(self, *, update: dict) -> "BaseModel":
        copy = type(self)()
        vars(copy).update(vars(self) | update)
        return copy


def model_validator(*, mode: str) -> Callable:
    def mark(method: object) -> object:
        if mode == "before":
            method.mode = mode
        return method

    return mark


class YAML:
    """ruamel's, by PyYAML, by the rules of YAML 1.2: `on` is a key, 1e-5 a number."""

    def __init__(self, **options: object) -> None:
        pass

    def load(self, text: str) -> object:
        import yaml

        class Reader(yaml.SafeLoader):
            yaml_implicit_resolvers = {
                first: [(tag, rule) for tag, rule in rules if not tag.endswith(":bool")]
                for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
            }

        Reader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))
        number = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
        Reader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
        return yaml.load(text, Reader)


class _Idle:
    """Does nothing, whatever it is asked; as a decorator it leaves a function as it is."""

    def __call__(self, *arguments: object, **options: object) -> object:
        return arguments[0] if len(arguments) == 1 and isfunction(arguments[0]) else self

    def __getattr__(self, name: str) -> "_Idle":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __or__(self, other: object) -> "_Idle":  # FileLock | None
        return self

    def __enter__(self) -> "_Idle":
        return self

    def __exit__(self, *error: object) -> None:
        pass


class _Module(ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {}) if name.endswith(("Error", "Exception", "Timeout")) else _Idle()


class StandIns(MetaPathFinder, Loader):
    """Asked last, after all that is installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        known = IDLE | {"pydantic", "ruamel"}
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _Module(spec.name)
        if spec.name == "pydantic":
            module.BaseModel, module.ConfigDict, module.model_validator = BaseModel, dict, model_validator
        elif spec.name == "ruamel.yaml":
            module.YAML = YAML
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


sys.meta_path.append(StandIns())
