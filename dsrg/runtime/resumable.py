"""Results of long work on many images, kept a few at a time: by several processes, and resumed when killed."""

import io
import os
import re
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.errors import RunError, one_line
from dsrg.runtime.checksummed import DamagedError, read_checksummed, write_checksummed
from dsrg.runtime.environment import env_float
from dsrg.runtime.launcher import WorkShard

Item = dict[str, NDArray]

LOOK = 0.2  # seconds between two looks for another process's files


def resumable_rows(
    make: Callable[[NDArray[np.int64]], Iterator[Item]], share: WorkShard, *, total: int, shard: int
) -> Iterator[Item]:
    """The items 0..total-1: those that whole files in the share's folder hold, the others made now, which go there too.

    Files are dealt out in turn to the processes that share the work. The first one hands out all items in order and
    waits for those of the others, who hand out what they have made.

    make: yields the items of the given rows, whole files of them, the same ones whatever other rows there are. An item
    has an array or plain value under each name and is always handed out as read from a file.

    Files are named after their first item and the sha256 of what is in them; what a damaged one held is made again,
    with a warning. Raises RunError when no file comes from the others for DSRG_SHARD_TIMEOUT_SECONDS.
    """
    starts, there = range(0, total, shard), _files(share.folder)
    mine = [start for start in starts[share.number :: share.parts] if start not in there]

    def rows(wanted: list[int]) -> NDArray[np.int64]:
        return np.concatenate([np.arange(start, min(start + shard, total)) for start in wanted])

    def write(start: int, items: Iterator[Item]) -> bytes:
        content = _packed(list(islice(items, shard)))
        there[start] = write_checksummed(share.folder, f"from-{start:08d}", content, suffix=".npz")
        return content

    making, own = make(rows(mine)) if mine else iter(()), set(mine)
    for start in starts if share.is_rank_zero else mine:
        if start in own:
            yield from _unpacked(write(start, making))
            continue
        if start not in there:
            _wait(start, there, share.folder)
        if (items := _read(there[start])) is None:
            items = _unpacked(write(start, make(rows([start]))))
        yield from items


def _files(folder: Path) -> dict[int, Path]:
    """The whole files in a folder by their first item."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        found = (re.fullmatch(r"from-(\d+)\.\w+\.npz", entry.name) for entry in entries)
        return {int(match[1]): folder / match[0] for match in found if match}


def _wait(start: int, there: dict[int, Path], folder: Path) -> None:
    """Look into the folder until the file is there. Raises RunError when none has come for long."""
    patience = env_float("DSRG_SHARD_TIMEOUT_SECONDS")
    until = time.monotonic() + patience
    while start not in there:
        time.sleep(LOOK)
        if len(found := _files(folder)) > len(there):
            until = time.monotonic() + patience
        elif time.monotonic() > until:
            raise RunError(
                f"another process ended or fell silent: images {start} and following are its part, and nothing came "
                f"into {folder} for {patience:.0f} s"
            )
        there.update(found)


def _read(path: Path) -> list[Item] | None:
    """The items in a file; None, with a warning, for one that is damaged."""
    try:
        return _unpacked(read_checksummed(path))
    except DamagedError as error:
        fault = str(error)
    except Exception as error:  # whole, and yet none of ours: it can be anything
        fault = f"{path}: no unfinished work ({one_line(error)})"
    print(f"warning: {fault}; what it held is made again", flush=True)
    return None


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
