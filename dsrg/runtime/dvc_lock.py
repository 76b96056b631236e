"""dvc.lock: what DVC noted of the outs of each stage when it last ran.

DVC itself looks at a file again only where its time or size has changed, which rot does not do.
"""

import hashlib
from collections.abc import Iterable
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


def changed_outs(paths: Iterable[Path], record: Iterable[Out]) -> list[str]:
    """A line for each file that is not what the stage that makes it left; folders have checksums of their own."""
    expected = {Path(out.path): out for out in record}
    return [
        f"{path}: damaged, or changed since the stage `{expected[path].stage}` made it (md5 {found[:12]}..., "
        f"dvc.lock has {expected[path].md5[:12]}...); make it again: dvc repro -f {expected[path].stage}"
        for path in paths
        if path in expected and path.is_file() and (found := md5(path)) != expected[path].md5
    ]


def md5(path: Path) -> str:
    """DVC's name for a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
