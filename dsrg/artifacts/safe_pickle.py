"""Pickles of NumPy arrays, read without running anything that they name.

A pickle is a program: Python's own reader imports and calls whatever the file asks for. This one is a machine that
knows only the instructions that carry data, and of all names only the few under which NumPy keeps its arrays. It reads
what Python 2 and 3 write for numeric arrays, text, bytes, numbers, None, lists, tuples and dicts with text as keys,
protocols 0 to 5, old and new module names of NumPy; text of Python 2 is taken for latin-1. Everything else is refused.
Memory is bounded: no length is believed before so many bytes are there, no bytes are copied into many arrays, and files
and programs must end in time.
"""

import gzip
import math
import pickletools
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import numpy as np

from dsrg.errors import InputError

# far above any real file of cues (VOC 2012: 100 MB, 1 million instructions), far below what would hurt
MOST_BYTES = 1 << 30
MOST_INSTRUCTIONS = 10_000_000
MOST_DIMENSIONS = 32

KINDS = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split())
PYTHON2_REPR = re.compile(rb"""(['"])((?:[^\\\x00-\x1f\x7f-\xff]|\\[\\'"tnr]|\\x[0-9a-f]{2})*)\1""")


def read_pickle(path: Path) -> object:
    """What a pickle holds, gzip'ed or not: dict, list, tuple, str, bytes, numbers, None and NumPy arrays.

    Raises InputError for files that are missing, damaged, longer than MOST_BYTES (unpacked) or hold anything else.
    """
    program = _Program(_contents(path))
    try:
        return program.run()
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: byte {program.place}: {reason}; expected an undamaged pickle of numeric NumPy arrays, "
            "and nothing that this one names was run"
        ) from None


def _contents(path: Path) -> bytes:
    pieces, size = [], 0
    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            source = gzip.GzipFile(fileobj=file) if packed else file
            while piece := source.read(1 << 20):
                pieces.append(piece)
                size += len(piece)
                if size > MOST_BYTES:
                    raise InputError(f"{path}: holds more than {MOST_BYTES} bytes; expected a pickle of cues")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not readable ({getattr(error, 'strerror', None) or error})") from None
    return b"".join(pieces)


# What the names in a pickle stand for. The functions check all they are given: it comes from the file.


class _Kind:
    """A dtype on its way: its code comes first, its byte order with a later instruction."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype


def _kind(code: object, _align: object = 0, _copy: object = 0) -> _Kind:
    if type(code) is not str or code not in KINDS:
        raise ValueError(f"an array of type {_quoted(code)}")
    return _Kind(np.dtype(code))


def _empty_array(kind: object, _shape: object, _code: object) -> np.ndarray:
    if kind is not _ARRAY:
        raise ValueError("an array of another class")
    return np.empty(0, np.int8)


def _array(raw: object, kind: object, shape: object, order: object, axes: object = None) -> np.ndarray:
    if type(order) is not str or order not in ("C", "F") or axes is not None:
        raise ValueError("an array in another order")
    return np.frombuffer(*_checked(shape, kind, raw)).reshape(shape, order=order)


def _scalar(kind: object, raw: object) -> np.generic:
    return np.frombuffer(*_checked((), kind, raw))[0]


def _encode(text: object, encoding: object) -> bytes:
    if type(text) is not str or type(encoding) is not str or encoding != "latin1":
        raise ValueError("bytes in another encoding")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    return b""


def _checked(shape: object, kind: object, raw: object) -> tuple[bytes, np.dtype]:
    """An array's bytes and dtype once both agree with its shape."""
    if type(raw) is str:
        raw = raw.encode("latin-1")
    if type(kind) is not _Kind or type(raw) is not bytes or type(shape) is not tuple or len(shape) > MOST_DIMENSIONS:
        raise ValueError("an array without proper type, shape and bytes")
    if any(type(length) is not int or not 0 <= length <= MOST_BYTES for length in shape):
        raise ValueError("an array with lengths that are no lengths")
    size = kind.dtype.itemsize * math.prod(shape)
    if size != len(raw):
        raise ValueError(f"{len(raw)} bytes for an array of shape {shape}, which needs {size}")
    return raw, kind.dtype


def _fill(thing: object, state: object) -> None:
    """Instruction BUILD: give an array its contents or a dtype its byte order."""
    match state:
        case (int(1), shape, kind, bool() | int() as by_column, raw) if type(thing) is np.ndarray:
            raw, dtype = _checked(shape, kind, raw)
            thing.__setstate__((1, shape, dtype, bool(by_column), raw))
        case (int(3) | int(4), str("<" | ">" | "|" | "=") as order, *_) if type(thing) is _Kind:
            thing.dtype = thing.dtype.newbyteorder(order)
        case _:
            raise ValueError("an object that is no array")


def _quoted(text: object) -> str:
    """For messages. Only text is ever printed: a small pickle can hold lists that are endless to print."""
    return repr(text[:80]) if type(text) is str else "(no text)"


_ARRAY = object()  # stands for the class numpy.ndarray
NAMES: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _kind,
    ("_codecs", "encode"): _encode,  # bytes, as Python 3 writes them for Python 2
    ("__builtin__", "bytes"): _no_bytes,  # the same without any
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array for core in ("core", "_core")},  # protocol 5
}


class _Program:
    """A pickle being read: its bytes, the place reached, a stack with marks, and the memo."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place, self.steps, self.copied = data, 0, 0, 0
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.push = self.stack.append

    def run(self) -> object:
        while (code := self.take(1)) != b".":
            self.steps += 1
            if self.steps > MOST_INSTRUCTIONS:
                raise ValueError(f"more than {MOST_INSTRUCTIONS} instructions")
            if code not in INSTRUCTIONS:
                known = pickletools.code2op.get(code.decode("latin-1"))
                raise ValueError(f"instruction {known.name if known else code}")
            INSTRUCTIONS[code](self)
        return self.top

    # reading

    def take(self, count: int) -> bytes:
        piece = self.data[self.place : self.place + count]
        if len(piece) < count:
            raise ValueError("the file ends too early")
        self.place += count
        return piece

    def number(self, form: str) -> int | float:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def counted(self, form: str) -> bytes:
        return self.take(self.number(form))

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.place)
        if end < 0:
            raise ValueError("the file ends too early")
        return self.take(end + 1 - self.place)[:-1]

    # doing

    @property
    def top(self) -> object:
        if not self.stack:
            raise ValueError("an instruction without its operands")
        return self.stack[-1]

    def pop(self, count: int) -> list:
        if len(self.stack) < count:
            raise ValueError("an instruction without its operands")
        return self.cut(len(self.stack) - count)

    def items(self) -> list:
        """What lies above the last mark, taken off the stack with it."""
        if not self.marks:
            raise ValueError("an instruction without its mark")
        return self.cut(self.marks.pop())

    def cut(self, start: int) -> list:
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def append(self, items: list) -> None:
        if type(self.top) is not list:
            raise ValueError("items for something that is no list")
        self.top.extend(items)

    def store(self, items: list) -> None:
        keys, values = items[::2], items[1::2]
        if type(self.top) is not dict or any(type(key) is not str for key in keys):
            raise ValueError("items for something that is no dict, or with keys that are no text")
        self.top.update(zip(keys, values, strict=True))

    def remember(self, place: int) -> None:
        if not 0 <= place <= self.steps:
            raise ValueError(f"place {place} of the memo")
        self.memo[place] = self.top

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise ValueError(f"place {place} of the memo")
        self.push(self.memo[place])

    def whole(self) -> int | bool:
        text = self.line()
        return text == b"01" if text in (b"00", b"01") else int(text)

    def quoted(self) -> str:
        """Text as Python 2 prints it; checked first, because Python 3 knows more escapes."""
        quotes = PYTHON2_REPR.fullmatch(self.line())
        if quotes is None:
            raise ValueError("text that is not quoted as by Python 2")
        return quotes[2].decode("unicode_escape")

    def name(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str or (module, name) not in NAMES:
            raise ValueError(f"it asks for {_quoted(module)} {_quoted(name)}")
        self.push(NAMES[module, name])

    def call(self) -> None:
        function, arguments = self.pop(2)
        # the only functions that the stack can hold are those of NAMES
        if not isinstance(function, FunctionType) or type(arguments) is not tuple:
            raise ValueError("a call of something that is no function")
        self.push(function(*arguments))
        self.count()

    def build(self) -> None:
        (state,) = self.pop(1)
        _fill(self.top, state)
        self.count()

    def count(self) -> None:
        """Every byte of a real file is copied at most into one bytes object and from there into one array."""
        match self.top:
            case np.ndarray() | np.generic() as values:
                self.copied += values.nbytes
            case bytes() as raw:
                self.copied += len(raw)
        if self.copied > 2 * len(self.data):
            raise ValueError("the same bytes for many arrays")


INSTRUCTIONS: dict[bytes, Callable[[_Program], object]] = {
    b"\x80": lambda p: p.take(1),  # PROTO
    b"\x95": lambda p: p.take(8),  # FRAME
    b"(": lambda p: p.marks.append(len(p.stack)),
    b"N": lambda p: p.push(None),
    b"\x88": lambda p: p.push(True),
    b"\x89": lambda p: p.push(False),
    # numbers
    b"I": lambda p: p.push(p.whole()),
    b"L": lambda p: p.push(int(p.line().removesuffix(b"L"))),
    b"K": lambda p: p.push(p.number("<B")),
    b"M": lambda p: p.push(p.number("<H")),
    b"J": lambda p: p.push(p.number("<i")),
    b"\x8a": lambda p: p.push(int.from_bytes(p.counted("<B"), "little", signed=True)),  # LONG1
    b"F": lambda p: p.push(float(p.line())),
    b"G": lambda p: p.push(p.number(">d")),
    # text of Python 2, text, bytes
    b"S": lambda p: p.push(p.quoted()),
    b"T": lambda p: p.push(p.counted("<I").decode("latin-1")),
    b"U": lambda p: p.push(p.counted("<B").decode("latin-1")),
    b"V": lambda p: p.push(p.line().decode("raw-unicode-escape")),
    b"X": lambda p: p.push(p.counted("<I").decode("utf-8")),
    b"\x8c": lambda p: p.push(p.counted("<B").decode("utf-8")),  # SHORT_BINUNICODE
    b"\x8d": lambda p: p.push(p.counted("<Q").decode("utf-8")),  # BINUNICODE8
    b"B": lambda p: p.push(p.counted("<I")),
    b"C": lambda p: p.push(p.counted("<B")),
    b"\x8e": lambda p: p.push(p.counted("<Q")),  # BINBYTES8
    b"\x96": lambda p: p.push(p.counted("<Q")),  # BYTEARRAY8
    # lists, tuples, dicts
    b"]": lambda p: p.push([]),
    b"l": lambda p: p.push(p.items()),
    b"a": lambda p: p.append(p.pop(1)),
    b"e": lambda p: p.append(p.items()),
    b")": lambda p: p.push(()),
    b"t": lambda p: p.push(tuple(p.items())),
    b"\x85": lambda p: p.push(tuple(p.pop(1))),  # TUPLE1
    b"\x86": lambda p: p.push(tuple(p.pop(2))),  # TUPLE2
    b"\x87": lambda p: p.push(tuple(p.pop(3))),  # TUPLE3
    b"}": lambda p: p.push({}),
    b"d": lambda p: (items := p.items(), p.push({}), p.store(items)),
    b"s": lambda p: p.store(p.pop(2)),
    b"u": lambda p: p.store(p.items()),
    # memo
    b"p": lambda p: p.remember(int(p.line())),
    b"q": lambda p: p.remember(p.number("<B")),
    b"r": lambda p: p.remember(p.number("<I")),
    b"\x94": lambda p: p.remember(len(p.memo)),  # MEMOIZE
    b"g": lambda p: p.recall(int(p.line())),
    b"h": lambda p: p.recall(p.number("<B")),
    b"j": lambda p: p.recall(p.number("<I")),
    # arrays
    b"c": lambda p: p.name(p.line().decode("latin-1"), p.line().decode("latin-1")),
    b"\x93": lambda p: p.name(*p.pop(2)),  # STACK_GLOBAL
    b"R": lambda p: p.call(),
    b"b": lambda p: p.build(),
}
