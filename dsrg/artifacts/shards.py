"""Results of long work on many images, kept a few at a time, so that work which was killed goes on where it was."""

import io
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.sealed import DamagedError, read_sealed, write_sealed

Item = dict[str, NDArray]

SHARD = 16  # images in a file; a multiple of what networks are given at once, so that nobody's neighbours change


def kept(make: Callable[[int], Iterator[Item]], folder: Path, *, total: int, shard: int = SHARD) -> Iterator[Item]:
    """The items 0..total-1: those that whole files in `folder` hold, then `make(start)`, which go there in their turn.

    make: yields the items from `start` on, a multiple of `shard`, and the same ones whatever that is. An item has an
    array or plain value under each name and is always handed out as read from a file.

    Files are named after their first item and the sha256 of what is in them; from a damaged one on, with a warning,
    items are made again.
    """
    start = 0
    while start < total and (items := _read(folder, start)) is not None:
        yield from items
        start += shard
    rest = make(start) if start < total else iter(())
    while items := list(islice(rest, shard)):
        content = _packed(items)
        write_sealed(folder, _stem(start), content, suffix=".npz")
        yield from _unpacked(content)
        start += shard


def _read(folder: Path, start: int) -> list[Item] | None:
    for path in sorted(folder.glob(f"{_stem(start)}.*.npz")):
        try:
            return _unpacked(read_sealed(path))
        except DamagedError as error:
            fault = str(error)
        except Exception as error:  # whole, and yet none of ours: it can be anything
            fault = f"{path}: no unfinished work ({' '.join(str(error).split())[:200]})"
        print(f"warning: {fault}; it and what comes after it is made again", flush=True)
    return None


def _stem(start: int) -> str:
    return f"from-{start:08d}"


def _packed(items: list[Item]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{f"{number}/{name}": value for number, item in enumerate(items) for name, value in item.items()})
    return buffer.getvalue()


def _unpacked(content: bytes) -> list[Item]:
    """Raises all that NumPy and zipfile raise where the content is none of `_packed`."""
    items: list[Item] = []
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for key in arrays.files:
            number, name = key.split("/", 1)
            if int(number) == len(items):
                items.append({})
            items[int(number)][name] = arrays[key]
    return items
