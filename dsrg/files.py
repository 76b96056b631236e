"""Whole files only: everything is written beside its place under a temporary name and renamed when complete."""

import csv
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dsrg.errors import InputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; renamed to `path` (after fsync) on success, removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The same for a folder; an older one at `path` is set aside whole, then replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, older = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.is_dir():
            os.replace(path, older)
        os.replace(temporary, path)
        shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def find_in_project(path: str) -> Path:
    """A path named in params.yaml: as given, or, in a temporary copy that dvc made, relative to the project itself."""
    given = Path(path).expanduser()
    original = Path(os.environ.get("DVC_ROOT", ".")) / given
    return original if not given.exists() and original.exists() else given


def read_text(path: str | Path) -> str:
    """Text of a UTF-8 file, whatever its line ends, byte order mark dropped. Raises InputError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8 text; save the file as UTF-8") from None


def write_text(path: str | Path, text: str) -> None:
    with whole_file(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, values: dict) -> None:
    """Readable JSON; NaN becomes null, floats are rounded to 6 digits so that a metric is easy to compare by eye."""
    write_text(path, json.dumps(_plain(values), indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
