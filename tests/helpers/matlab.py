"""Masks in MATLAB's format, as SBD has them."""

import struct
import zlib

import numpy as np


def element(kind: int, content: bytes) -> bytes:
    """A data element of a MAT-file, level 5."""
    if len(content) <= 4:
        return struct.pack("<HH", kind, len(content)) + content.ljust(4, b"\0")
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(array_class: int, shape: tuple[int, int], *parts: bytes) -> bytes:
    return element(14, b"".join([element(6, struct.pack("<II", array_class, 0)), element(5, struct.pack("<ii", *shape)),
                                 element(1, b""), *parts]))  # fmt: skip


def mat(mask: np.ndarray, *, field: str = "Segmentation", compressed: bool = False, array_class: int = 2) -> bytes:
    """A file with a struct that holds a double and then `mask` (uint8)."""
    names = b"".join(name.encode().ljust(32, b"\0") for name in ("Before", field))
    before = matrix(6, (1, 1), element(9, struct.pack("<d", 7.0)))
    pixels = matrix(9, mask.shape, element(2, mask.tobytes(order="F")))
    content = matrix(array_class, (1, 1), element(5, struct.pack("<i", 32)), element(1, names), before, pixels)
    if compressed:
        packed = zlib.compress(content)
        content = struct.pack("<II", 15, len(packed)) + packed
    return b"MATLAB 5.0 MAT-file".ljust(124, b" ") + b"\x00\x01IM" + content
