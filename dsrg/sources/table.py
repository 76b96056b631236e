"""Tables of tags, as people keep them and as labeling tools, spreadsheets and pandas write them.

NAME.csv, .tsv     a header, columns separated by comma, semicolon or tab (or by the sign of a line `sep=;`)
NAME.jsonl, .json  an object a line, or a list of objects (Label Studio's JSON-MIN); their keys are the columns

The image stands in the column `image`, its tags in `tags` (or in tag1, tag2 ...), its split in `split`, or in a column
of another usual name (IMAGE_COLUMNS ...). Tags are separated by `data.separator`, or are a list as JSON, Python, NumPy
or Label Studio write it. A table may have a row for each tag: rows of one image are joined. Without a column of tags,
columns of 0 and 1 are classes. What is not used is noted.
"""

import ast
import csv
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

from dsrg.data.classes import bare
from dsrg.data.ids import normal
from dsrg.errors import InputError, few
from dsrg.files import read_text

ENDINGS_OF_TABLES = (".csv", ".tsv", ".jsonl", ".json")
DELIMITERS = ",;\t"  # of columns
TABLE_BYTES, TABLE_LINES = 32 * 1024**2, 200_000  # at most, but for more images: a table is read at once
EXPECTED_OBJECT = 'expected {"image": "a.jpg", "tags": ["cat"]}, perhaps with a split'

# Usual names of columns, letters and digits alone, the one to prefer first.
IMAGE_COLUMNS = (
    "image filename fname imagename imagefile imagepath filepath imageid file path img imgname imgpath photo picture"
).split()
TAG_COLUMNS = (
    "tags tag labelnames labelname classnames classname categoryname labels label choices choice classes class "
    "categories category"
).split()
PRESENCE_COLUMNS = "confidence present presence exists positive probability score value".split()
SPLIT_NAMES = {  # letters alone, without "set" or "split" at the end
    "train": "train training trn trainval trainaug learn entrenamiento entraînement apprentissage".split(),
    "val": "val valid validation validate dev development eval evaluation validierung".split(),
    "test": "test testing tst holdout prueba".split(),
}
YES = frozenset("1 true yes wahr ja vrai oui verdadero si sí vero".split())
NO = frozenset(["", *"0 false no n falsch nein faux non falso -1".split()])
MARKS = frozenset("x \u2713 \u2714 y".split())  # for yes, where other cells of the column are empty or no

SEP_LINE = re.compile(r'"?sep=([^"\n])"?\s*')  # Excel's, which it neither shows nor counts as a row
QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
WHOLE_NUMBER = re.compile(r"(-?\d+)[.,]0+")
NUMBER = r"-?\d+(?:\.\d+)?"
ITEM = rf"(?:{QUOTED}|{NUMBER}|None|null|nan|NaN)"
LIST = re.compile(rf"set\(\)|(?:[\w.]+\()?[\[({{]\s*(?:{ITEM}(?:(?:\s*,\s*|\s+){ITEM})*\s*,?)?\s*[\])}}]\)?")
BARE_LIST = re.compile(r"""[\[{]([^][(){}'"]*)[\]}]""")  # [dog, traffic light], as YAML and Postgres write it


class Row(NamedTuple):
    """One image in a table of tags."""

    where: str  # file:line
    image: str
    tags: tuple[str, ...]
    split: str | None  # None: the table has no splits


class Table(NamedTuple):
    """What a table holds, and what of it is not used or was joined."""

    rows: list[Row]
    notes: list[str]


class NoTable(InputError):
    """A file is no table of tags: it has no columns of images and tags, or no rows."""


class Columns(NamedTuple):
    """Which columns of a table are read."""

    image: str
    tags: list[str]  # empty: the classes are columns of 0 and 1
    split: str | None = None
    is_split: str | None = None  # yes or no: is it for training, or for evaluation?
    presence: str | None = None  # of a table with a row for each tag; 0: the tag is not there

    @property
    def used(self) -> set[str]:
        return {self.image, *self.tags, *(self[2:])} - {None}


def read_table(path: Path, *, separator: str, images: int, key: str = "data.tags") -> Table:
    """Read a table of tags. Raises InputError with every malformed line.

    So that a table takes no more memory than there is reason for, it may have TABLE_LINES, or as many as a row for each
    tag of `images` can need. key: the param or option that named it.
    """
    if not path.is_file():
        tables = sorted(other.name for other in path.parent.glob("*") if other.suffix in ENDINGS_OF_TABLES)
        hint = f"set {key} to one of those there: {', '.join(tables)}" if tables else "expected a table of tags"
        raise InputError(f"{path}: no such file; {hint} ({key})")
    if path.suffix.lower() not in ENDINGS_OF_TABLES:
        raise InputError(f"{path}: expected a table of tags, .csv, .tsv, .jsonl or .json ({key})")
    names, lines, problems = read_cells(path, images=images)
    columns, notes = _choose_columns(path, names, lines)
    flags = []
    if not columns.tags:
        flags = _flag_columns(path, columns, names, lines)
        columns, lines = columns._replace(tags=["tags"]), [_with_flags(line, flags) for line in lines]
    rows, more, more_notes = _rows(columns, lines, separator)
    if problems := [*problems, *more]:
        raise InputError(problems)
    if not rows:
        raise NoTable(f"{path}: a table without rows; expected one image a row")
    rows, joined = join_rows(rows)
    notes += more_notes
    if flags:
        notes.append(f"its columns of 0 and 1 are the classes: {few(flags)}")
    notes += joined
    if unused := [name for name in names if name and name not in {*columns.used, *flags}]:
        notes.append(f"{len(unused)} columns are not used: {few(unused)}")
    return Table(rows, [f"{path.name}: {note}" for note in notes])


def table_text(path: Path, *, images: int) -> str:
    """Text of a table or list. Raises InputError if it has more bytes than so many images can need."""
    return read_text(path, most=TABLE_BYTES * max(TABLE_LINES, 2 * images) // TABLE_LINES)


# Cells


class Line(NamedTuple):
    """One line of a table: where it is, and its cells by column."""

    where: str
    cells: dict[str, object]


class Cells(NamedTuple):
    """The names of a table's columns, its lines, and what is wrong with those that are not among them."""

    names: list[str]
    lines: list[Line]
    problems: list[str]


def read_cells(path: Path, *, images: int) -> Cells:
    """The cells of a table. Raises InputError for a file that is no such table."""
    text, most = table_text(path, images=images), max(TABLE_LINES, 2 * images)
    if (count := text.count("\n")) > most:
        raise InputError(f"{path}: {count:,} lines; expected at most {most:,}, one for each image")
    return _json_cells(path, text) if path.suffix.lower() in (".json", ".jsonl") else _csv_cells(path, text)


def _csv_cells(path: Path, text: str) -> Cells:
    header, _, rest = text.partition("\n")
    first, delimiter = 1, None
    if declared := SEP_LINE.fullmatch(header.strip("\r,;\t ")) or SEP_LINE.fullmatch(header.strip("\r ")):
        first, delimiter, text = 2, declared[1], rest
        header = text.partition("\n")[0]
    delimiter = delimiter or max(DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    names, lines, problems = None, [], []
    try:
        names = [cell.strip() for cell in next(reader, [])]
        for cells in reader:
            where = f"{path}:{reader.line_num + first - 1}"
            if len(cells) == len(names):
                if any(cell.strip() for cell in cells):
                    lines.append(Line(where, dict(zip(names, cells, strict=True))))
            elif any(cell.strip() for cell in cells):
                hint = f"quote a name or tags that hold {delimiter!r}"
                problems.append(f"{where}: {len(cells)} cells under {len(names)} columns; {hint}")
    except csv.Error as error:
        if names is None:
            raise InputError(f"{path}:{first}: {error}; expected the names of the columns") from None
        problems.append(f"{path}:{reader.line_num + first - 1}: {error}")
    return Cells(names, lines, problems)


def _json_cells(path: Path, text: str) -> Cells:
    """An object a line, or a list of objects."""
    found, problems = [], []
    try:
        if path.suffix.lower() == ".json":
            found = json.loads(text)
            if not isinstance(found, list):
                expected = EXPECTED_OBJECT.removeprefix("expected ")
                raise InputError(f"{path}: expected a list of objects, each as {expected}")
            found = [(f"{path}[{number}]", one) for number, one in enumerate(found)]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no readable JSON ({error})") from None
    for number, line in enumerate(text.split("\n") if path.suffix.lower() == ".jsonl" else (), start=1):
        try:
            if line.strip():
                found.append((f"{path}:{number}", json.loads(line)))
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}:{number}: {EXPECTED_OBJECT} ({error})")
    problems += [
        f"{where}: {EXPECTED_OBJECT}, not {type(one).__name__}" for where, one in found if not isinstance(one, dict)
    ]
    lines = [Line(where, one) for where, one in found if isinstance(one, dict)]
    return Cells(list(dict.fromkeys(name for line in lines for name in line.cells)), lines, problems)


# Columns


def _choose_columns(path: Path, names: list[str], lines: list[Line]) -> tuple[Columns, list[str]]:
    """Which columns hold images, tags and splits, and notes on it. Raises NoTable if none or several do."""
    image, tag = _first(IMAGE_COLUMNS, names), _first(TAG_COLUMNS, names)
    problems = [f"no column {name!r}" for name, found in {"image": image, "tags": tag}.items() if found is None]
    if image is not None and tag is None and len(names) > 2:
        problems = []  # they may be classes
    twice = (name for name in (image, tag, "split") if name is not None and names.count(name) > 1)
    if problems := [*problems, *(f"more than one column {name!r}" for name in twice)]:
        raise NoTable(f"{path}:1: {problem}; {_expected(names)}" for problem in problems)
    stem = tag and _stem(tag)
    columns = Columns(image, [name for name in names if tag and name.isprintable() and _stem(name) == stem])
    held = {_folded(line.cells.get(name)) for line in lines for name in columns.tags}
    if columns.tags[1:] and held & YES and held <= YES | NO:
        columns = columns._replace(tags=[])  # label_0, label_1 ... are classes, each with a column
    others = [name for name in names if name and name not in columns.used]
    values = {name: {_folded(line.cells.get(name)) for line in lines} for name in others}
    split = _split_column(values)
    is_split = None if split else _is_split_column(values, alone=not columns.tags)
    presence = _presence_column(others, lines) if columns.tags else None
    columns, notes = columns._replace(split=split, is_split=is_split, presence=presence), []
    if split and split.casefold() != "split":
        notes.append(f"the splits are those of its column {split!r}")
    if is_split:
        notes.append(f"its column {is_split!r} says which images are for training, which for evaluation")
    if columns.tags[1:]:
        notes.append(f"the tags are those of its columns {', '.join(columns.tags)}")
    return columns, notes


def _expected(names: list[str]) -> str:
    return f"expected image and tags, perhaps split, found {', '.join(names)!r}"


def _split_column(values: dict[str, set[str]]) -> str | None:
    """The column `split`, or one that holds nothing but names of splits, whatever its own."""
    roles = {name: {split_role(value) for value in own - {""}} for name, own in values.items()}
    named = [name for name in values if name.casefold() == "split"]
    named += [name for name, own in roles.items() if len(own) > 1 and "train" in own and None not in own]
    return next(iter(named), None)


def _is_split_column(values: dict[str, set[str]], *, alone: bool) -> str | None:
    """A column of yes and no such as is_valid. alone: there is no column of tags, so `train` may be a class."""
    for name, own in values.items():
        role = split_role(re.sub(r"^is(?=[^a-z])|^is(?=[tdv])", "", name.casefold()))
        if role and own <= YES | NO and not (alone and split_role(name)):
            return name
    return None


def _presence_column(names: list[str], lines: list[Line]) -> str | None:
    """The column of numbers (or yes and no) that says whether the tag of a row is there."""
    name = _first(PRESENCE_COLUMNS, names)
    if name is None or any(_number(line.cells.get(name)) is None for line in lines):
        return None
    return name


def _flag_columns(path: Path, columns: Columns, names: list[str], lines: list[Line]) -> list[str]:
    """The columns of 0 and 1 that are classes, at least two. Raises NoTable, and InputError for others among them."""
    flags, faults, expected = [], {}, "expected 0 or 1 in columns that are classes"
    for name in dict.fromkeys(name for name in names if name and name not in columns.used):
        values = [_folded(line.cells.get(name)) for line in lines]
        held, odd = {*values}, [place for place, value in enumerate(values) if value not in YES | NO | MARKS]
        numbers = values.count("0") > 1 and all(_number(value) is not None for value in values)
        slips = held & YES and held & NO - {""} and 2 * len(odd) < len(values)
        if odd and (numbers or slips):
            faults[name] = [f"{lines[k].where}: column {name!r} holds 0 and {values[k]!r}; {expected}" for k in odd]
        elif not odd and held & YES and {"-1", "0"} <= held:
            faults[name] = [f"{path}: column {name!r} holds -1 beside 0 and 1, so no or not sure? {expected}"]
        elif not odd and (held & YES or (held & MARKS and held & NO)):
            flags.append(name)
            if names.count(name) > 1:
                faults[name] = [f"{path}:1: more than one column {name!r}; join them"]
    if len({*flags, *faults}) < 2:
        raise NoTable(f"{path}:1: no column 'tags'; {_expected(names)}")
    if faults:
        raise InputError(problem for own in faults.values() for problem in own)
    return flags


def _first(wanted: list[str], names: list[str]) -> str | None:
    """The name that is the first of those wanted, whatever its case, signs and number (tag1)."""
    sound = [name for name in reversed(names) if name.isprintable()]
    by_letters = {_stem(name): name for name in sound} | {bare(name): name for name in sound}
    return next((by_letters[name] for name in wanted if name in by_letters), None)


def _stem(name: str) -> str:
    return bare(name).rstrip("0123456789")


def split_role(name: str) -> str | None:
    """`train`, `val` or `test`: what the name of a split means, by its usual spellings; None if it is another.

    >>> [split_role(name) for name in ("TRAIN", "Training set", "Valid", "dev", "Test", "x")]
    ['train', 'train', 'val', 'val', 'test', None]
    """
    letters = "".join(filter(str.isalpha, name.casefold())).removesuffix("set").removesuffix("split")
    return next((role for role, names in SPLIT_NAMES.items() if letters in names), None)


# Rows


def _rows(columns: Columns, lines: list[Line], separator: str) -> tuple[list[Row], list[str], list[str]]:
    """A row for each line -> rows, problems, notes."""
    rows, problems, unsure = [], [], 0
    absent: dict[tuple[str, str], str] = {}
    for line in lines:
        try:
            row = _row(line, columns, separator)
        except ValueError as error:
            problems.append(f"{line.where}: {error}")
            continue
        confidence = _number(line.cells[columns.presence]) if columns.presence else 1
        unsure += 0 < confidence < 1
        if confidence <= 0:
            absent |= {(row.image, tag): row.where for tag in row.tags}
            row = row._replace(tags=())
        rows.append(row)
    problems += [
        f"{row.where}: {row.image!r} has the tag {tag!r} here, but not at {other} ({columns.presence} 0); remove one"
        for row in rows
        for tag in row.tags
        if (other := absent.get((row.image, tag)))
    ]
    if any(row.split is not None for row in rows):
        problems += [f"{row.where}: no split, but other lines have one" for row in rows if row.split is None]
    return rows, problems, [f"{unsure} rows have a {columns.presence} below 1, and count as tags"] * bool(unsure)


def _with_flags(line: Line, flags: list[str]) -> Line:
    """The line with the names of those flags as tags that say yes."""
    tags = [name for name in flags if _folded(line.cells.get(name)) in YES | MARKS]
    return line._replace(cells=line.cells | {"tags": tags})


def _row(line: Line, columns: Columns, separator: str) -> Row:
    """Raises ValueError for cells that are no text (or list, in JSON)."""
    if missing := [name for name in (columns.image, *columns.tags) if name not in line.cells]:
        raise ValueError(f"{EXPECTED_OBJECT} (no {missing[0]!r})")
    image, split = line.cells[columns.image], line.cells.get(columns.split)
    if not isinstance(image, str) or not isinstance(split, str | None):
        raise ValueError(f"{EXPECTED_OBJECT} (image and split are text)")
    if columns.is_split:
        is_train = split_role(re.sub("^is", "", columns.is_split.casefold())) == "train"
        split = "train" if (_folded(line.cells.get(columns.is_split)) in YES) == is_train else "val"
    cells = (cell_tags(line.cells[name], separator) for name in columns.tags)
    tags = dict.fromkeys(normal(tag.strip()) for cell in cells for tag in cell)
    return Row(line.where, image.strip(), tuple(tag for tag in tags if tag), split and split.strip())


def _folded(cell: object) -> str:
    """A cell's text in small letters, a whole number without its decimals: 1.0 and 1,0 are 1."""
    text = "" if cell is None else str(cell).strip().casefold()
    return whole[1] if (whole := WHOLE_NUMBER.fullmatch(text)) else text


def _number(cell: object) -> float | None:
    """A cell's number, 1 and 0 for yes and no; None for anything else, and for nothing."""
    if (text := _folded(cell)) and text in YES | NO:
        return float(text in YES)
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None


def cell_tags(cell: object, separator: str) -> list[str]:
    """The tags in one cell: a written-out list, an object around one (Label Studio), or text with a separator.

    >>> [cell_tags(cell, "|") for cell in ("cat|dog", "['cat', 'dog']", '{"choices": ["cat", "dog"]}', "['cat' 'dog']")]
    [['cat', 'dog'], ['cat', 'dog'], ['cat', 'dog'], ['cat', 'dog']]

    Raises ValueError for what is none of these.
    """
    if cell is None:
        return []
    if isinstance(cell, str):
        text = cell.strip()
        if LIST.fullmatch(text):
            items = re.findall(ITEM, text[re.search(r"[\[({]", text).start() :])
            return [_unquoted(item) for item in items if item.casefold() not in ("none", "null", "nan")]
        if found := BARE_LIST.fullmatch(text):
            return found[1].split("," if "," in found[1] else separator)
        if not text.startswith(("{", "[")):
            return cell.split(separator)
        try:
            cell = json.loads(text)
        except (ValueError, RecursionError):
            return [text]  # its braces are refused where classes are
    if isinstance(cell, dict) and len(cell) == 1:
        (cell,) = cell.values()
    if not isinstance(cell, list) or not all(isinstance(tag, str) for tag in cell):
        shapes = isinstance(cell, list) and dict in map(type, cell)
        hint = "; boxes or other shapes? export them as COCO" if shapes else ""
        raise ValueError(f"{EXPECTED_OBJECT} (tags are text, not {json.dumps(cell):.60}{hint})")
    return cell


def _unquoted(item: str) -> str:
    """Text or a number as JSON or Python write it."""
    if item[0] not in "'\"":
        return item
    try:
        return json.loads(item)
    except ValueError:
        return ast.literal_eval(item)


def join_rows(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Rows of one image made one, if the table has a row for each tag: nowhere more than one tag in a row.

    Others are left as they are: who reads them says what is wrong.
    """
    if any(len(row.tags) > 1 for row in rows):
        return rows, []
    joined: dict[tuple[str, str | None], Row] = {}
    for row in rows:
        first = joined.setdefault((row.image, row.split), row)
        if first is not row:
            tags = tuple(dict.fromkeys((*first.tags, *row.tags)))
            joined[row.image, row.split] = first._replace(tags=tags)
    if len(joined) == len(rows):
        return rows, []
    return list(joined.values()), [f"{len(rows)} rows with a tag each are joined to {len(joined)} images"]
