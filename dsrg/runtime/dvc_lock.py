"""dvc.lock: what DVC noted of each stage when it last ran."""

import hashlib
from pathlib import Path

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from dsrg.errors import InputError, advised
from dsrg.files import read_yaml


class LockedFile(BaseModel):
    """A dep or an out: md5 of the file, or, ending in `.dir`, of the list of a folder's files; bytes in all."""

    path: str
    md5: str = Field(validation_alias=AliasChoices("md5", "etag", "checksum"))  # the others of files elsewhere
    size: int = 0


class LockedStage(BaseModel):
    deps: list[LockedFile] = []
    outs: list[LockedFile] = []
    params: dict[str, dict] = {}  # by file, then by dotted key


class _Lock(BaseModel):
    stages: dict[str, LockedStage]


def read_lock(path: Path = Path("dvc.lock")) -> dict[str, LockedStage]:
    """What dvc.lock notes of each stage; nothing where there is none. Raises InputError for one that is damaged."""
    if not path.is_file():
        return {}
    with advised(f"restore it: git checkout -- {path}"):
        try:
            return _Lock.model_validate(read_yaml(path)).stages
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise InputError(f"{path}: no lock of DVC's ({reason})") from None


def md5(path: Path) -> str:
    """DVC's name for a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
