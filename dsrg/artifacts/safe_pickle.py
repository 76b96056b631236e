"""Pickled dicts of NumPy arrays, read without running anything that they name.

A pickle is a program: Python's own reader imports and calls whatever the file asks for. Here it finds only the names
under which NumPy of Python 2 and 3 keeps numeric arrays, and stand-ins for them. Text of Python 2 is taken for latin-1.
"""

import gzip
import io
import pickle
import zlib
from pathlib import Path

import numpy as np

from dsrg.errors import InputError, one_line

MAX_BYTES = 1 << 30  # far above any real file of cues (VOC 2012: 100 MB)
DTYPES = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split())


def read_pickle(path: Path) -> dict[str, object]:
    """A pickled dict, gzip'ed or not, of any protocol; its values are NumPy arrays, or whatever else is no object.

    Raises InputError for files that are missing, damaged, longer than MAX_BYTES (unpacked) or hold anything else.
    """
    content = _content(path)
    try:
        found = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
        if type(found) is dict and all(type(key) is str for key in found):
            return {key: value.array if isinstance(value, _Array) else value for key, value in found.items()}
    except Exception as error:  # the file decides what goes wrong in Python's reader
        told = isinstance(error, ValueError) and one_line(error)
        reason = told or f"no pickle, or a damaged one ({type(error).__name__})"
        raise InputError(
            f"{path}: {reason}; expected an undamaged pickle of numeric NumPy arrays, "
            "and nothing that this one names was run"
        ) from None
    raise InputError(f"{path}: holds no dict; expected cues, two arrays an image")


def _content(path: Path) -> bytes:
    pieces, size = [], 0
    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            source = gzip.GzipFile(fileobj=file) if packed else file
            while piece := source.read(1 << 20):
                pieces.append(piece)
                size += len(piece)
                if size > MAX_BYTES:
                    raise InputError(f"{path}: holds more than {MAX_BYTES} bytes; expected a pickle of cues")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not readable ({getattr(error, 'strerror', None) or error})") from None
    return b"".join(pieces)


class _Dtype:
    """A dtype being read: its code comes first, its byte order with a later instruction."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in DTYPES:
            raise ValueError(f"an array of type {code[:80]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array being read: its content comes with a later instruction."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _version, shape, kind, by_column, raw = state
        self.array = _from_buffer(raw, kind, shape, "F" if by_column else "C")


def _from_buffer(raw: bytes | str, kind: _Dtype, shape: tuple, order: str) -> np.ndarray:
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, kind.dtype).reshape(shape, order=order)


class _ArrayUnpickler(pickle._Unpickler):
    """Not the reader in C, which reserves memory for the places and lengths that a file states."""

    NAMES = {
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): lambda text, _encoding: text.encode("latin-1"),  # bytes, as Python 3 writes for Python 2
        ("__builtin__", "bytes"): lambda: b"",  # the same without any
    }
    for core in ("numpy.core", "numpy._core"):
        NAMES[f"{core}.multiarray", "_reconstruct"] = _Array
        NAMES[f"{core}.numeric", "_frombuffer"] = _from_buffer  # protocol 5

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.NAMES:
            raise ValueError(f"it asks for {module[:80]!r} {name[:80]!r}")
        return self.NAMES[module, name]

    def get_extension(self, code: int) -> None:
        raise ValueError(f"it asks for extension {code}")
