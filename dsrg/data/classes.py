"""Class names: a text file with one name a line, where line k names class k. Background is class 0 and never listed."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from dsrg.data.ids import normal
from dsrg.errors import InputError
from dsrg.files import read_text, write_text

VOC_CLASSES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
MOST_CLASSES = 254  # a label map is uint8: 0 is background, 255 unlabeled
FILE_BYTES = 2**20  # what names of classes can need

# Texts by which programs say that there is nothing, letters and digits alone: NaN, None, <NA>, #N/A, #NV ...
NO_VALUE = frozenset(
    "nan none null nil na nat nd nv nothing undefined unlabeled unlabelled untagged notag notags nolabel".split()
)
ERROR_CELL = re.compile(r"#[^\W\d_/]+(/\d)?[!?]")  # of a spreadsheet: #REF!, #WERT!, #DIV/0!
REST = frozenset(
    "other others misc miscellaneous unknown void ignore ignored empty bg noobject negative rest normal healthy "
    "false".split()
)
NEGATIONS = frozenset("no not without".split())  # first words of such names as "No finding"
WORDS_OF_A_NAME = 5  # more of them are a sentence
DOUBLE_QUOTES, QUOTES = '"\u201c\u201d\u201e\u00ab\u00bb', "'`\u2018\u201a"
JOINING = frozenset("-_.'\u2019")  # signs within a name, as in T-shirt, bird's nest, St. Bernard
SMALL_WORD = 3  # letters of a word that may join two names: and, or, und, et, y, on
SMALL_WORDS = frozenset("with plus avec oder sowie".split())  # longer ones
WORDS_MOST = 32  # of a name that is looked at


def read_classes(path: str | Path) -> list[str]:
    """Read class names; blank lines at the end are no harm. Raises InputError with every bad line."""
    if not Path(path).exists():  # one in the data is read only where there is one
        raise InputError(f"{path}: no such file; run the stage `prepare` first")
    names = [normal(line.strip()) for line in read_text(path, most=FILE_BYTES).rstrip().split("\n")]
    _refuse_bad(names, path)
    return names


def write_classes(path: str | Path, classes: list[str]) -> None:
    """Write class names. Raises InputError for names that `read_classes` would refuse."""
    _refuse_bad(classes, path)
    write_text(path, "".join(f"{name}\n" for name in classes))


def class_problems(names: list[str], places: list[str], where: str | Path) -> list[str]:
    """What is wrong with class names, each found at its place in the file `where`: badly named, named twice, none at
    all or too many.
    """
    first: dict[str, int] = {}
    problems = []
    for number, (name, place) in enumerate(zip(names, places, strict=True)):
        earlier = first.setdefault(_folded(name), number)
        if reason := name_fault(name):
            problems.append(f"{place}: {reason}")
        elif earlier == number:
            continue
        elif names[earlier] == name:
            problems.append(f"{place}: {name!r} is already {_at(places[earlier], where)}; remove one")
        else:
            what = "case" if names[earlier].casefold() == name.casefold() else "case, spaces, '-' or '_'"
            other = f"{names[earlier]!r} ({_at(places[earlier], where)})"
            problems.append(f"{place}: {name!r} differs only in {what} from {other}; choose one spelling")
    if not 1 <= len(names) <= MOST_CLASSES:
        room = "a label map has 8 bits a pixel: 0 is background, 255 unlabeled"
        problems.append(f"{where}: {len(names)} names; expected 1 to {MOST_CLASSES} classes ({room})")
    return problems


def name_fault(name: str, *, instead: str = "remove this line") -> str | None:
    """Why a name cannot name a class, or None if it can. instead: what to do with a name that means "nothing"."""
    if not name.strip():
        return "no name; expected one class name on each line"
    if is_background(name):
        spelled = "" if name.casefold() == "background" else f" ({name!r})"
        return f"background is always class 0{spelled}; {instead}"
    if name.startswith("__") and name.endswith("__"):
        return f"{name!r} is what programs call pixels without a label, 255 here, and no class; {instead}"
    if reads_as_nothing(name):
        return f'{name!r} reads as "no value", not as the name of a class; {instead}'
    if "|" in name or not name.isprintable() or name != name.strip():
        return f"{name!r} must not hold '|', control characters, spaces at its ends or odd ones; rename it"
    if is_written_out(name):
        return f"{name!r} holds brackets or quotes, as a list that was written out does; expected the bare name"
    return None


def is_background(name: str) -> bool:
    """Does a name mean background, in whatever spelling (`_background_`)?"""
    return bare(name) == "background"


def reads_as_nothing(name: str) -> bool:
    """Is a text what programs write where there is no value? Letters, digits and emoji name something.

    >>> [name for name in ("NaN", "<NA>", "#N/A", "--", "#REF!", "None", "nun", "C++", "7") if reads_as_nothing(name)]
    ['NaN', '<NA>', '#N/A', '--', '#REF!', 'None']
    """
    if ERROR_CELL.fullmatch(name):
        return True
    return bare(name) in NO_VALUE or not any(c.isalnum() or unicodedata.category(c) == "So" for c in name)


def doubts_about(names: list[str]) -> list[tuple[str, list[str]]]:
    """What is odd about names that may yet be classes: (what, which of them)."""
    sentences = [name for name in names if len(_words(name)) > WORDS_OF_A_NAME]
    without_digits = partial(re.sub, "[0-9]+", "")
    count = Counter(map(without_digits, names))
    found = {
        "classes are numbers; write their names if they have any": [name for name in names if bare(name).isdecimal()],
        'classes read as "none of the others"; if so, leave their cells empty': [n for n in names if _is_rest(n)],
        "classes have more than five words; expected names, not sentences": sentences,
        "classes differ in numbers alone; expected names, without scores or counts": [
            name for name in names if count[without_digits(name)] > 2 and not bare(name).isdecimal()
        ],
    }
    if shared := shared_parts(names):
        hint = f"if {shared[1]!r} separates tags, set data.separator to it"
        found[f"tags may be several tags each: their words occur in other tags too; {hint}"] = shared[0]
    return [(what, which) for what, which in found.items() if which]


def _is_rest(name: str) -> bool:
    """May a name mean "none of the classes"?"""
    return bare(name) in REST or next((word for word, _, _ in _words(name)), "") in NEGATIONS


def is_written_out(name: str) -> bool:
    """Is a name a piece of a list or of quoted text? An apostrophe or a pair of parentheses is no harm."""
    quoted = name[0] in DOUBLE_QUOTES + QUOTES or name[-1] in DOUBLE_QUOTES or name.count('"') > 1
    return quoted or any(sign in "[]{}" for sign in name) or name.count("(") != name.count(")")


def bare(name: str) -> str:
    """Letters and digits of a name alone, in lower case."""
    return "".join(filter(str.isalnum, name.casefold()))


def _folded(name: str) -> str:
    """Equal for spellings of one name."""
    return re.sub(r"[\s_-]+", " ", name.casefold())


# Names that are several names


class Composite(NamedTuple):
    """A name that is made of others."""

    parts: list[str]
    gap: str | None  # the sign, or the word with its spaces, between them; None if it is not the same everywhere

    @property
    def hint(self) -> str:
        """What is probably meant."""
        made = f"it is made of {' and '.join(map(repr, self.parts))}"
        if self.gap is None:
            return f"{made}; separate them by one sign, the same in all rows (data.separator)"
        return f"{made}; if {self.gap!r} separates tags, set data.separator (--separator) to it"


def composites(names: Iterable[str], classes: Iterable[str]) -> dict[str, Composite]:
    """Those of the names whose words are names of several classes, with nothing but signs and small words between.

    >>> found = composites(["cat/dog", "cat and dog", "traffic light"], ["cat", "dog", "light"])
    >>> {name: composite.gap for name, composite in found.items()}
    {'cat/dog': '/', 'cat and dog': ' and '}
    """
    known: dict[tuple[str, ...], str] = {}
    for name in classes:
        known.setdefault(tuple(word for word, _, _ in _words(name)), name)
    longest = max(map(len, known), default=0)
    found = {}
    for name in names:
        words = _words(name)
        if 2 <= len(words) <= WORDS_MOST and (spans := _spans([word for word, _, _ in words], known, longest)):
            gaps = {
                _gap(name[words[stop - 1][2] : words[start][1]])
                for (_, stop), (start, _) in zip(spans, spans[1:], strict=False)
            }
            parts = [known[tuple(word for word, _, _ in words[start:stop])] for start, stop in spans]
            found[name] = Composite(parts, gaps.pop() if len(gaps) == 1 else None)
    return found


def _spans(words: list[str], known: dict[tuple[str, ...], str], longest: int) -> list[tuple[int, int]]:
    """Where the known names begin and end that the words are made of, at least two; none if they are not."""
    rest: dict[int, list[tuple[int, int]]] = {len(words): []}  # by place: the names from there to the end
    for start in reversed(range(len(words))):
        for stop in range(start + 1, min(start + longest, len(words)) + 1):
            if tuple(words[start:stop]) not in known:
                continue
            joined = stop + 1 if stop + 1 in rest and _is_small(words[stop]) else stop
            follow = stop if stop in rest else joined
            if follow in rest:
                rest[start] = [(start, stop), *rest[follow]]
                break
    found = rest.get(0, [])
    return found if len(found) > 1 else []


def _is_small(word: str) -> bool:
    return word in SMALL_WORDS or (len(word) <= SMALL_WORD and word.isalpha())


def _gap(between: str) -> str:
    """What separates two names, without the spaces around a sign."""
    return between if any(map(str.isalnum, between)) else between.strip() or between


def _words(name: str) -> list[tuple[str, int, int]]:
    """Runs of letters and digits (and the marks that scripts put on them), in lower case, with their places."""
    found, place = [], 0
    for inside, run in groupby(name, key=lambda c: c.isalnum() or unicodedata.category(c)[0] == "M"):
        text = "".join(run)
        if inside:
            found.append((text.casefold(), place, place + len(text)))
        place += len(text)
    return found


def shared_parts(names: list[str]) -> tuple[list[str], str] | None:
    """Names whose words all occur in other names too, and the sign between them; None if there are no such.

    So do several tags in one cell where none of them stands alone. Two words for each two things (red car, blue car,
    red bus, blue bus) look the same, so this is a question, not a fault.

    >>> shared_parts(["cat dog", "dog sofa", "cat sofa"])
    (['cat dog', 'dog sofa', 'cat sofa'], ' ')
    >>> shared_parts(["traffic light", "traffic sign", "stop sign"])
    """
    parts_by_sign: dict[str, dict[str, tuple[str, ...]]] = {}
    for name in names:
        words = _words(name)
        gaps = {_gap(name[before[2] : after[1]]) for before, after in zip(words, words[1:], strict=False)}
        if len(gaps) == 1 and (sign := gaps.pop())[:1] not in JOINING:
            parts_by_sign.setdefault(sign, {})[name] = tuple(word for word, _, _ in words)
    for sign, parts_of in parts_by_sign.items():
        whole = (bare(name) for name in names if name not in parts_of)
        count = Counter(part for parts in [*parts_of.values(), *((name,) for name in whole)] for part in {*parts})
        found = [name for name, parts in parts_of.items() if all(count[part] > 1 for part in parts)]
        if len(found) > 1 and len({part for name in found for part in parts_of[name]}) <= len(found):
            return found, sign
    return None


def _refuse_bad(names: list[str], path: str | Path) -> None:
    places = [f"{path}: line {number}" for number in range(1, len(names) + 1)]
    if problems := class_problems(names, places, path):
        raise InputError(problems)


def _at(place: str, where: str | Path) -> str:
    """`on line 1` of the file `where`, or `at` any other place."""
    line = place.removeprefix(f"{where}: ")
    return f"on {line}" if line.startswith("line ") else f"at {line}"
