"""dvc.lock: what DVC noted of the outs of each stage when it last ran."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from dsrg.errors import InputError
from dsrg.files import read_yaml


class Out(NamedTuple):
    """One out of a stage: md5 of the file, or, ending in `.dir`, of the list of a folder's files; bytes in all."""

    stage: str
    path: str
    md5: str
    size: int


def read_record(path: Path = Path("dvc.lock")) -> list[Out]:
    """What dvc.lock notes, stage by stage; nothing where there is none. Raises InputError for one that is damaged."""
    if not path.is_file():
        return []
    try:
        values = read_yaml(path)
    except InputError as error:
        raise InputError(f"{problem}; restore it: git checkout -- {path}" for problem in error.problems) from None
    try:
        return [
            Out(str(name), str(out["path"]), str(out["md5"]), int(out.get("size", 0)))
            for name, stage in values["stages"].items()
            for out in stage.get("outs", [])
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: no lock of DVC's ({reason}); restore it: git checkout -- {path}") from None


def md5(path: Path) -> str:
    """DVC's name for a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
