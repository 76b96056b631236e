"""Image ids: the names under which results are kept, so each must be fit for a file name on any disk, and used once."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

UNSAFE = frozenset('/\\:*?"<>|')
DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
ID_BYTES_MAX = 200  # leaves room for endings within the 255 bytes that file systems allow a name
DERIVED_BYTES_MAX = 160  # ... and for the digits that keep derived ids apart


class ListEntry(NamedTuple):
    """An id as its source lists it."""

    id: str
    split: str  # "train" or "val"
    where: str  # file:line


def id_fault(image_id: str) -> str | None:
    """Why an id cannot serve as a file name, or None if it can."""
    if not image_id or image_id.startswith(".") or set(image_id) & UNSAFE or not image_id.isprintable():
        return f"{image_id!r} is no image id; expected a file name without its folder and ending"
    if len(image_id.encode()) > ID_BYTES_MAX:
        return f"id {image_id[:20]!r}... is longer than {ID_BYTES_MAX} bytes; rename the image"
    return None


def id_problems(listed: Iterable[ListEntry], *, again: str = "remove one") -> list[str]:
    """Ids that are unsafe as file names, listed twice, in both splits, or differ from another only in case.

    again: what to do with an id that is listed twice.
    """
    problems = []
    seen: dict[str, ListEntry] = {}
    for entry in listed:
        if fault := id_fault(entry.id):
            problems.append(f"{entry.where}: {fault}")
            continue
        first = seen.setdefault(_folded(entry.id), entry)
        if first is entry:
            continue
        if first.id != entry.id:
            fault = f"differs only in case from {first.id!r} ({first.where}): one file on many disks; rename one"
        elif first.split != entry.split:
            fault = f"is in both splits ({first.where}): never evaluate on a training image; remove it from one list"
        else:
            fault = f"is listed twice ({first.where}); {again}"
        problems.append(f"{entry.where}: id {entry.id!r} {fault}")
    return problems


def image_ids(names: dict[str, str]) -> dict[str, str]:
    """Ids of images that have none: path -> what of it is worth a name, both with `/` -> id by path.

    The id is the name without its ending, `__` for `/` and `_` for what no file name may hold and before the names of
    devices, cut to 160 bytes. Where that gives several images one id (case aside), each gets `-` and 8 digits of its
    path's checksum behind it: so what an id is depends on no order.

    >>> image_ids({"images/cats/a:1.jpg": "cats/a:1.jpg", "images/b.png": "b.png"})
    {'images/cats/a:1.jpg': 'cats__a_1', 'images/b.png': 'b'}
    >>> list(image_ids({"b.png": "b.png", "b.jpg": "b.jpg"}).values())
    ['b-5f59d8e8', 'b-7a11ab94']
    """
    plain = {path: _plain_id(name) for path, name in names.items()}
    shared = Counter(_folded(image_id) for image_id in plain.values())
    digits = {path: f"-{hashlib.sha256(path.encode()).hexdigest()[:8]}" for path in plain}
    return {path: own + digits[path] * (shared[_folded(own)] > 1) for path, own in plain.items()}


def _plain_id(name: str) -> str:
    bare = normal(str(PurePosixPath(name).with_suffix("")).replace("/", "__"))
    safe = "".join("_" if character in UNSAFE or not character.isprintable() else character for character in bare)
    if safe.startswith("."):
        safe = f"_{safe[1:]}"
    if safe.partition(".")[0].rstrip().casefold() in DEVICES:  # no file has such a name on Windows
        safe = f"_{safe}"
    return safe.encode()[:DERIVED_BYTES_MAX].decode(errors="ignore")


def _folded(image_id: str) -> str:
    """Equal for ids that would be one file on some disk."""
    return normal(image_id).casefold()


def normal(text: str) -> str:
    """The same letters in the same code points, whatever system wrote them."""
    return unicodedata.normalize("NFC", text)
