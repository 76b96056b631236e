"""Whole files only: everything is written beside its place under a temporary name and renamed when complete."""

import codecs
import csv
import ctypes
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree

from dsrg.errors import InputError, one_line

CACHED = r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$"  # where DVC keeps a file, and to where it may link

# What a file system may refuse, and what a person can do about it.
REFUSALS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "your quota is used up; make room or ask for more",
    errno.EFBIG: "a file may not be so large here (ulimit -f); raise the limit",
    errno.EROFS: "nothing can be written there; choose another place or mount it writable",
    errno.EACCES: "you may not write there; change its permissions or choose another place",
    errno.EPERM: "you may not write there; change its permissions or choose another place",
    errno.ENOENT: "no file can be made there; choose another place",
    errno.ELOOP: "its links lead in a circle; choose another place",
    errno.ENAMETOOLONG: "the file system takes no name so long; move the project to a shorter path",
    errno.ENOTDIR: "a file stands where a folder should; move it away",
    errno.EEXIST: "a file stands where a folder should; move it away",
}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_file(path: Path, *, size: int = 0) -> Iterator[Path]:
    """Yields the temporary path of an empty file to fill; renamed to `path` (after fsync) on success, else removed.

    Raises InputError before anything is done where less than `size` bytes are free or nothing may be written, and
    afterwards where the disk is full, a quota or a limit is reached; an older file at `path` is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _refused(path, REFUSALS):
            path.parent.mkdir(parents=True, exist_ok=True)
            require_room(path.parent, size)
            temporary.touch()
        with _refused(path, NO_ROOM):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        with suppress(OSError):  # where it cannot even be looked for, it is not
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same for a folder; an older one at `path` is set aside whole, then replaced."""
    temporary, older = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        with _refused(path, REFUSALS):
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path) and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "", path)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        with _refused(path, NO_ROOM):
            yield temporary
            _sync_all(temporary)
            if path.is_dir():
                os.replace(path, older)
            os.replace(temporary, path)
            _sync(path.parent)
            shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_room(folder: Path, size: int) -> None:
    """Raises InputError unless `size` bytes are free where `folder` is, or will be."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if (free := shutil.disk_usage(there).free) < size:
        raise InputError(f"{folder}: needs about {human_bytes(size)}, {human_bytes(free)} are free; make room")


def require_writable(folder: Path) -> None:
    """Raises InputError unless files can be written into `folder`, which is made where it is missing."""
    with _refused(folder, REFUSALS):
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".{os.getpid()}.tmp"
        trial.touch()
        trial.unlink()


def human_bytes(size: float) -> str:
    """Bytes as people say them.

    >>> human_bytes(999), human_bytes(1536), human_bytes(3 * 2**30)
    ('999 bytes', '1.5 KiB', '3.0 GiB')
    """
    if size < 1024:
        return f"{size:.0f} bytes"
    power = min(int(math.log(size, 1024)), 4)
    return f"{size / 1024**power:.1f} {'KMGT'[power - 1]}iB"


@contextmanager
def _refused(path: Path, numbers: Iterable[int]) -> Iterator[None]:
    """What the operating system refuses, if it is one of these `numbers`, becomes an InputError about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
        free = f" ({human_bytes(shutil.disk_usage(path.parent).free)} free)" if error.errno == errno.ENOSPC else ""
        what, advice = os.strerror(error.errno), REFUSALS[error.errno]
        raise InputError(f"{path}: cannot be written: {what}{free}; {advice}, then run this again") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(folder: Path) -> None:
    """Flush a folder's file system at once: an fsync of thousands of files takes a minute, os.sync flushes all."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)  # Linux has it
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if syncfs is not None and syncfs(descriptor) == 0:
            return
    finally:
        os.close(descriptor)
    for path in folder.rglob("*"):
        _sync(path)


def find_in_project(path: str) -> Path:
    """A path named in params.yaml: as given, or, in a temporary copy that dvc made, relative to the project itself."""
    given = Path(path).expanduser()
    original = Path(os.environ.get("DVC_ROOT", ".")) / given
    return original if not given.exists() and original.exists() else given


def linked_elsewhere(paths: Iterable[str], root: Path) -> list[str]:
    """Those of the paths below `root` that links lead out of it, unless into DVC's cache, where DVC keeps its files.

    `root` itself may be a link: who names it means where it leads.
    """
    inside, found, real_folders = Path(os.path.realpath(root)), [], {}
    for path in paths:
        folder, name = os.path.split(root / path)
        if folder not in real_folders:
            real_folders[folder] = os.path.realpath(folder)  # Path.resolve raises an error for a link to itself
        real = os.path.join(real_folders[folder], name)
        real = Path(os.path.realpath(real) if os.path.islink(real) else real)
        if not real.is_relative_to(inside) and not re.search(CACHED, real.as_posix()):
            found.append(path)
    return found


def refuse_outside(path: str, root: Path) -> None:
    """Raises InputError for a path whose own words lead out of `root`. Links are followed: people set those."""
    if os.path.isabs(path) or ".." in Path(path).parts:
        raise InputError(f"{root / path}: leads out of {root}; name a file below it")


def read_yaml(path: str | Path) -> object:
    """Plain values of a YAML file, by the rules of YAML 1.2 (ruamel), so that `1e-5` is a number; no object is made.

    Raises InputError for a file that cannot be read or is no YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    text = read_text(path)
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML: {one_line(error)}") from None


def read_text(path: str | Path, *, most: int | None = None) -> str:
    """Text of a UTF-8 file (or UTF-16, if a mark says so), whatever its line ends, byte order mark dropped.

    Raises InputError if it cannot be read, is a pipe that would never end, or has more than `most` bytes.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: a folder or device; expected a text file")
        if most is not None and (size := path.stat().st_size) > most:
            raise InputError(f"{path}: {human_bytes(size)}; expected at most {human_bytes(most)} of text")
        with open(path, "rb") as file:
            utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # Excel's "Unicode text"
        return path.read_text(encoding="utf-16" if utf16 else "utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8 text; save the file as UTF-8") from None


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses the declaration that entities need, in any encoding: they can make a small file huge, or read others."""

    def doctype(self, *_: object) -> None:
        raise ValueError("it declares a DOCTYPE, which is not safe to read; remove the declaration")


def parse_xml(path: Path, *, most: int) -> ElementTree.Element:
    """The root of an XML file of at most `most` bytes.

    Raises ValueError with what is wrong with it, FileNotFoundError where there is none.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a folder or device")
        if path.stat().st_size > most:
            raise ValueError(f"more than {human_bytes(most)}")
        return ElementTree.parse(path, ElementTree.XMLParser(target=_NoDoctype())).getroot()
    except FileNotFoundError:
        raise
    except (OSError, ElementTree.ParseError, LookupError, RecursionError) as error:
        raise ValueError(error) from None


@contextmanager
def opened_text(path: str | Path) -> Iterator[TextIO]:
    """The same text to be read line by line, line ends as they are. Raises InputError as `read_text`."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield file
    except (OSError, UnicodeDecodeError):
        read_text(path)  # says what is wrong, and where in the file
        raise


def write_text(path: str | Path, text: str) -> None:
    with atomic_file(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, values: dict) -> None:
    """Readable JSON; NaN becomes null, floats are rounded to 6 digits so that a metric is easy to compare by eye."""
    write_text(path, json.dumps(_plain(values), indent=2, allow_nan=False) + "\n")


def write_csv(path: str | Path, header: list[str], rows: Iterable[Iterable]) -> None:
    with atomic_file(Path(path)) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
