"""What the Semantic Boundaries Dataset (Hariharan et al. 2011) adds to PASCAL VOC 2012: the list `trainaug`, and masks.

No list is shipped: `trainaug` is set arithmetic on the lists of the two datasets themselves.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.data.classes import VOC_CLASSES
from dsrg.errors import InputError
from dsrg.files import read_text, write_text
from dsrg.sources.voc import list_path

TRAINAUG = 10_582  # images, of the published lists

# Level 5 MAT-files, the format of SBD's masks: an element's kind, the numbers it may hold, and an array's class
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 9: "<f8"}
STRUCT_CLASS = 2
MASK_MAX = 64 * 1024**2  # bytes; SBD's have less than one million


def list_ids(text: str) -> set[str]:
    """Image ids of a list, one a line, whatever its line ends (SBD's and VOC's differ)."""
    return {line.strip() for line in text.splitlines()} - {""}


def trainaug_ids(
    *, voc_train: Iterable[str], voc_val: Iterable[str], sbd_train: Iterable[str], sbd_val: Iterable[str]
) -> list[str]:
    """Ids of `trainaug`, sorted: everything that VOC or SBD train on, and SBD's val, but for VOC's val.

    >>> trainaug_ids(voc_train="ab", voc_val="cd", sbd_train="bce", sbd_val="df")
    ['a', 'b', 'e', 'f']
    """
    return sorted({*voc_train, *sbd_train, *sbd_val}.difference(voc_val))


def write_trainaug(root: Path, *, sbd_train: Iterable[str], sbd_val: Iterable[str], expected: int = TRAINAUG) -> None:
    """Write ROOT/ImageSets/Segmentation/trainaug.txt from VOC's train.txt and val.txt there and SBD's lists.

    Raises InputError, and writes nothing, unless it comes out with as many ids as the published list has: results
    quoted for `trainaug` are compared with those of others, so nothing else may go by its name.
    """
    lists = {
        "voc_train": list_ids(read_text(list_path(root, "train"))),
        "voc_val": list_ids(read_text(list_path(root, "val"))),
        "sbd_train": set(sbd_train),
        "sbd_val": set(sbd_val),
    }
    ids = trainaug_ids(**lists)
    path = list_path(root, "trainaug")
    if len(ids) != expected:
        found = ", ".join(f"{name.replace('_', ' ')} {len(own):,}" for name, own in lists.items())
        raise InputError(
            f"{path}: not written, it would hold {len(ids):,} ids; expected {expected:,} "
            f"(lists it is made from: {found}); restore those that were changed from their archives"
        )
    write_text(path, "".join(f"{image_id}\n" for image_id in ids))


def read_sbd_mask(data: bytes, where: str) -> NDArray[np.uint8]:
    """The label map in one of SBD's `cls/ID.mat` files -> uint8 (H, W), 0 background, 1..20 VOC's classes.

    It has no unlabeled border around objects as VOC's masks have. Read here is what the file needs of MATLAB's level 5
    format: the field `Segmentation` of the struct `GTcls`. Raises InputError, naming `where`, for anything else.
    """
    try:
        fields = next(_struct_fields(content) for kind, content in _elements(data[128:]) if kind == MATRIX)
        mask = _numbers(fields["Segmentation"])
    except (StopIteration, KeyError, IndexError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{where}: no mask of SBD ({type(error).__name__}: {error}); fetch it again") from None
    if mask.ndim != 2 or not np.isin(mask, range(len(VOC_CLASSES) + 1)).all():
        raise InputError(f"{where}: no mask of SBD; expected values 0 to {len(VOC_CLASSES)} in two dimensions")
    return mask.astype(np.uint8)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of one data element after the other; compressed ones are unpacked."""
    start = 0
    while start < len(data):
        kind, size = struct.unpack_from("<II", data, start)
        if size_inside := kind >> 16:  # up to four bytes, within the head itself
            yield kind & 0xFFFF, data[start + 4 : start + 4 + size_inside]
            start += 8
            continue
        content = data[start + 8 : start + 8 + size]
        if len(content) < size:
            raise ValueError(f"{len(content)} bytes where {size} were announced")
        if kind == COMPRESSED:
            inflated = zlib.decompressobj()
            unpacked = inflated.decompress(content, MASK_MAX)
            if not inflated.eof:
                raise ValueError(f"more than {MASK_MAX} bytes, or cut off")
            yield from _elements(unpacked)
            start += 8 + size
        else:
            yield kind, content
            start += 8 + size + -size % 8


def _struct_fields(matrix: bytes) -> dict[str, bytes]:
    """Fields of a struct of one element by name, each a matrix."""
    (_, flags), _, _, (_, name_length), (_, names), *fields = _elements(matrix)
    if flags[0] != STRUCT_CLASS:
        raise ValueError(f"an array of class {flags[0]}, expected a struct")
    length = int.from_bytes(name_length, "little")
    starts = range(0, len(names), length)
    return {names[k : k + length].rstrip(b"\0").decode(): own for k, (_, own) in zip(starts, fields, strict=True)}


def _numbers(matrix: bytes) -> NDArray:
    """The numbers of a full matrix, in its shape."""
    _, (_, shape), _, (kind, values) = _elements(matrix)
    return np.frombuffer(values, NUMBERS[kind]).reshape(np.frombuffer(shape, "<i4"), order="F")
