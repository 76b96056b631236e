"""Class names: a text file with one name a line, where line k names class k. Background is class 0 and never listed."""

from pathlib import Path

from dsrg.errors import InputError
from dsrg.files import read_text, write_text

VOC_CLASSES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
MOST_CLASSES = 254  # a label map is uint8: 0 is background, 255 unlabelled


def read_classes(path: str | Path) -> list[str]:
    """Read class names; blank lines at the end are no harm. Raises InputError with every bad line."""
    names = [line.strip() for line in read_text(path).rstrip().split("\n")]
    _refuse_bad(names, path)
    return names


def write_classes(path: str | Path, classes: list[str]) -> None:
    """Write class names. Raises InputError for names that `read_classes` would refuse."""
    _refuse_bad(classes, path)
    write_text(path, "".join(f"{name}\n" for name in classes))


def _refuse_bad(names: list[str], path: str | Path) -> None:
    problems = [
        f"{path}: line {number}: {reason}"
        for number, name in enumerate(names, start=1)
        if (reason := _fault(name, names[: number - 1]))
    ]
    if not 1 <= len(names) <= MOST_CLASSES:
        problems.append(f"{path}: {len(names)} names; expected 1 to {MOST_CLASSES}, for which a label map has room")
    if problems:
        raise InputError(problems)


def _fault(name: str, earlier: list[str]) -> str | None:
    if not name.strip():
        return "no name; expected one class name on each line"
    if name.casefold() == "background":
        return "background is always class 0; remove this line"
    if name in earlier:
        return f"{name!r} is already on line {earlier.index(name) + 1}; remove one"
    if "|" in name or not name.isprintable() or name != name.strip():
        return f"{name!r} must not hold '|', control characters or spaces at its ends; rename it"
    return None
