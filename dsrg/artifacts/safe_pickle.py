"""Pickles of NumPy arrays, read without running anything that they name.

A pickle is a program: Python's own reader imports and calls whatever the file asks for. Here it finds only the names
under which NumPy of Python 2 and 3 keeps arrays, and functions of this module stand behind them. Read are numeric
arrays, text, bytes, numbers, None, lists, tuples and dicts with text as keys, protocols 0 to 5; text of Python 2 is
taken for latin-1. Memory and time are bounded by the size of the file.
"""

import gzip
import io
import math
import pickle
import zlib
from pathlib import Path

import numpy as np

from dsrg.errors import InputError

# far above any real file of cues (VOC 2012: 100 MB, a million pieces)
MAX_BYTES = 1 << 30
MAX_READS = 10_000_000
DTYPES = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split())


def read_pickle(path: Path) -> object:
    """What a pickle holds, gzip'ed or not: dict, list, tuple, str, bytes, numbers, None and NumPy arrays.

    Raises InputError for files that are missing, damaged, longer than MAX_BYTES (unpacked) or hold anything else.
    """
    content = _content(path)
    try:
        return _ArrayUnpickler(content).load()
    except Exception as error:  # the file decides what goes wrong in Python's reader
        told = isinstance(error, ValueError) and " ".join(str(error).split())[:200]
        reason = told or f"no pickle, or a damaged one ({type(error).__name__})"
        raise InputError(
            f"{path}: {reason}; expected an undamaged pickle of numeric NumPy arrays, "
            "and nothing that this one names was run"
        ) from None


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

    def __init__(self, code: object, _align: object = 0, _copy: object = 0) -> None:
        if type(code) is not str or code not in DTYPES:
            raise ValueError(f"an array of type {code[:80]!r}" if type(code) is str else "an array of no known type")
        self.dtype = np.dtype(code)


def _empty_array(_kind: object, _shape: object, _code: object) -> np.ndarray:
    return np.empty(0, np.int8)


class _File(io.BytesIO):
    """Bytes that are read in a bounded number of pieces: an instruction of one byte can take a hundred of memory."""

    reads = 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        piece = super().read(size)
        if len(piece) < size or self.reads > MAX_READS:
            raise ValueError("the file ends too early" if len(piece) < size else "too many instructions")
        return piece


class _ArrayUnpickler(pickle._Unpickler):
    """Python's reader without what data does not need.

    Not the one in C: that reserves memory for the places and lengths which the file states, and hashes tuples in
    tuples as keys of a dict, without end. This one is as fast where most bytes belong to arrays.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(_File(content), encoding="latin1")
        self.names = {
            ("numpy", "ndarray"): None,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): self.encode,  # bytes, as Python 3 writes them for Python 2
            ("__builtin__", "bytes"): lambda: b"",  # the same without any
        }
        for core in ("numpy.core", "numpy._core"):
            self.names[f"{core}.multiarray", "_reconstruct"] = _empty_array
            self.names[f"{core}.numeric", "_frombuffer"] = self.array  # protocol 5
        self.left = len(content)  # of a sound file, every byte is copied into one array at most

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.names:
            raise ValueError(f"it asks for {module[:80]!r} {name[:80]!r}")
        return self.names[module, name]

    def copied(self, raw: bytes) -> bytes:
        self.left -= len(raw)
        if self.left < 0:
            raise ValueError("the same bytes for many arrays")
        return raw

    def encode(self, text: object, encoding: object) -> bytes:
        if type(text) is not str or encoding != "latin1":
            raise ValueError("bytes in another encoding")
        return self.copied(text.encode("latin-1"))

    def array(self, raw: object, kind: object, shape: object, order: object, axes: object = None) -> np.ndarray:
        if order not in ("C", "F") or axes is not None:
            raise ValueError("an array in another order")
        return np.frombuffer(*self.checked(shape, kind, raw)).reshape(shape, order=order)

    def checked(self, shape: object, kind: object, raw: object) -> tuple[bytes, np.dtype]:
        """An array's bytes and dtype once both agree with its shape."""
        raw = raw.encode("latin-1") if type(raw) is str else raw
        if type(kind) is not _Dtype or type(raw) is not bytes or type(shape) is not tuple or len(shape) > 32:
            raise ValueError("an array without proper type, shape and bytes")
        if any(type(length) is not int or not 0 <= length <= MAX_BYTES for length in shape):
            raise ValueError("an array with lengths that are no lengths")
        if (size := kind.dtype.itemsize * math.prod(shape)) != len(raw):
            raise ValueError(f"{len(raw)} bytes for an array of shape {shape}, which needs {size}")
        return self.copied(raw), kind.dtype

    # instructions

    def build(self) -> None:
        """Give an array its contents or a dtype its byte order."""
        state = self.stack.pop()
        match self.stack[-1], state:
            case np.ndarray() as array, (1, shape, kind, bool() | int() as by_column, raw):
                raw, dtype = self.checked(shape, kind, raw)
                array.__setstate__((1, shape, dtype, bool(by_column), raw))
            case _Dtype() as kind, (3 | 4, "<" | ">" | "|" | "=" as order, *_):
                kind.dtype = kind.dtype.newbyteorder(order)
            case _:
                raise ValueError("an object that is no array")

    def store(self, items: list) -> None:
        keys = items[::2]
        if type(self.stack[-1]) is not dict or any(type(key) is not str for key in keys):
            raise ValueError("items for something that is no dict, or with keys that are no text")
        self.stack[-1].update(zip(keys, items[1::2], strict=True))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.store([key, value])

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self.store(items)

    def load_bytes(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def refuse(self) -> None:
        raise ValueError("an instruction that arrays do not need")

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BUILD[0]: build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: lambda self: self.store(self.pop_mark()),
        pickle.DICT[0]: load_dict,
        pickle.BYTEARRAY8[0]: load_bytes,
        pickle.FRAME[0]: lambda self: self.read(8),
    }
    for _code in (
        *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),
        *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.READONLY_BUFFER, pickle.NEXT_BUFFER),
    ):
        dispatch[_code[0]] = refuse
