"""Class names: a text file with one name a line, where line k names class k. Background is class 0 and never listed."""

from pathlib import Path

from dsrg.errors import InputError
from dsrg.files import read_text, write_text

VOC_CLASSES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
MOST_CLASSES = 254  # a label map is uint8: 0 is background, 255 unlabelled
FILE_BYTES = 2**20  # what names of classes can need


def read_classes(path: str | Path) -> list[str]:
    """Read class names; blank lines at the end are no harm. Raises InputError with every bad line."""
    if not Path(path).exists():  # one in the data is read only where there is one
        raise InputError(f"{path}: no such file; run the stage `prepare` first")
    names = [line.strip() for line in read_text(path, most=FILE_BYTES).rstrip().split("\n")]
    _refuse_bad(names, path)
    return names


def write_classes(path: str | Path, classes: list[str]) -> None:
    """Write class names. Raises InputError for names that `read_classes` would refuse."""
    _refuse_bad(classes, path)
    write_text(path, "".join(f"{name}\n" for name in classes))


def class_problems(names: list[str], places: list[str], where: str | Path) -> list[str]:
    """What is wrong with class names, each found at its place: badly named, named twice, none at all or too many.

    `where` is the file they come from.
    """
    first: dict[str, int] = {}
    problems = []
    for number, (name, place) in enumerate(zip(names, places, strict=True)):
        earlier = first.setdefault(name.casefold(), number)
        if reason := name_fault(name):
            problems.append(f"{place}: {reason}")
        elif earlier == number:
            continue
        elif names[earlier] == name:
            problems.append(f"{place}: {name!r} is already {_at(places[earlier], where)}; remove one")
        else:
            other = f"{names[earlier]!r} ({_at(places[earlier], where)})"
            problems.append(f"{place}: {name!r} differs only in case from {other}; choose one spelling")
    if not 1 <= len(names) <= MOST_CLASSES:
        room = "a label map has 8 bits a pixel: 0 is background, 255 unlabelled"
        problems.append(f"{where}: {len(names)} names; expected 1 to {MOST_CLASSES} classes ({room})")
    return problems


def name_fault(name: str) -> str | None:
    """Why a name cannot name a class, or None if it can."""
    if not name.strip():
        return "no name; expected one class name on each line"
    if name.casefold() == "background":
        return "background is always class 0; remove this line"
    if "|" in name or not name.isprintable() or name != name.strip():
        return f"{name!r} must not hold '|', control characters or spaces at its ends; rename it"
    return None


def _refuse_bad(names: list[str], path: str | Path) -> None:
    places = [f"{path}: line {number}" for number in range(1, len(names) + 1)]
    if problems := class_problems(names, places, path):
        raise InputError(problems)


def _at(place: str, where: str | Path) -> str:
    """`on line 1` of the file `where`, or `at` any other place."""
    line = place.removeprefix(f"{where}: ")
    return f"on {line}" if line.startswith("line ") else f"at {line}"
