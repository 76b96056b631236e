"""Which pictures somebody names on the command line, under which names their results are kept, and their tags."""

import glob
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from dsrg.data.ids import image_ids
from dsrg.data.images import ENDINGS, ImageFacts, check_image, files_left_out
from dsrg.errors import InputError
from dsrg.runtime.progress import tracked
from dsrg.runtime.workers import threaded_map
from dsrg.sources.folder import IMAGES, Names, find_files
from dsrg.sources.table import Row, read_table
from dsrg.sources.validation import OTHER_TAG, tag_faults


class Picture(NamedTuple):
    """An image file and the id under which its results are kept."""

    path: Path
    id: str


class FoundPictures(NamedTuple):
    """Pictures, and what was named but is none."""

    pictures: list[Picture]
    problems: list[str]
    warnings: list[str]
    left_out: list[str]  # lines about files of other kinds in the folders


def find_pictures(named: Iterable[str]) -> FoundPictures:
    """Pictures that files, folders and patterns (`*`, `?`, `[..]`, `**`) name, each once; opens none.

    A folder stands for all images below it, except those in its own subfolder `masks` and in earlier predictions. Ids
    are `data.ids.image_ids`, from the path below a named folder (without `images/`, so they are the pipeline's), or
    from a named file's name alone.
    """
    names: dict[str, str] = {}  # by path
    found, seen, others = FoundPictures([], [], [], []), set(), set()

    def add(path: Path, name: str) -> None:
        if (real := os.path.realpath(path)) not in seen:
            seen.add(real)
            names[path.as_posix()] = name

    for given in named:
        shown = given.encode(errors="backslashreplace").decode()
        if shown != given:
            found.problems.append(f"{shown}: a name that is not UTF-8; rename it")
        elif not given:  # of a variable that is not set, say; it would stand for all that is here
            found.problems.append("'': no name; expected files, folders or patterns, `.` for this folder")
        elif Path(given).is_dir():
            _look_into(Path(given), add, found, others)
        elif Path(given).exists() or not glob.has_magic(given):
            add(Path(given), Path(given).name)
        else:
            paths = [Path(path) for path in sorted(glob.glob(given, recursive=True))]
            if not paths:
                found.problems.append(f"{shown}: no file fits this pattern")
            for path in paths:
                if not path.is_dir():  # a pattern such as ** finds folders beside what is in them
                    add(path, path.name)
    ids = image_ids(names)
    pictures = [Picture(Path(path), ids[path]) for path in names]
    return found._replace(pictures=pictures, left_out=files_left_out(others))


def _look_into(folder: Path, add: Callable[[Path, str], None], found: FoundPictures, others: set[str]) -> None:
    """Add the images of a folder, without those of earlier predictions; `others` are files of other kinds."""
    files = find_files(folder, none_is_fine=True)
    if not files.images and not files.others:
        found.problems.append(f"{folder}: no image in this folder or below it; expected {', '.join(ENDINGS)}")
    earlier = [file.parent for file in folder.rglob("images.csv") if file.with_name("masks").is_dir()]
    found.warnings.extend(files.warnings)
    found.warnings.extend(f"{place}: an earlier prediction, not looked at" for place in earlier)

    def is_own(name: str) -> bool:
        return not any(place in (folder / name).parents for place in earlier)

    for name in filter(is_own, files.images):
        add(folder / name, name.removeprefix(f"{IMAGES}/"))
    others.update((folder / name).as_posix() for name in files.others if is_own(name))


def check_pictures(pictures: list[Picture], *, pixels_max: int) -> tuple[dict[Picture, ImageFacts], list[str]]:
    """Read every picture to its end -> facts of those that can be used, in order, and what is wrong with the others."""

    def check(picture: Picture) -> ImageFacts | InputError:
        try:
            return check_image(picture.path, pixels_max=pixels_max, key="--pixels-max")
        except InputError as error:
            return error

    good, problems = {}, []
    looked_at = tracked(threaded_map(check, pictures), "checking images", len(pictures))
    for picture, found in zip(pictures, looked_at, strict=True):
        if isinstance(found, InputError):
            problems += found.problems
        else:
            good[picture] = found
    return good, problems


def remark_counts(facts: Iterable[ImageFacts]) -> list[str]:
    """`3 images are CMYK, ...`: what is odd about images, yet read by a rule."""
    counts = Counter(remark for found in facts for remark in found.remarks)
    return [f"{count} image{'s' * (count > 1)} {remark}" for remark, count in counts.items()]


def tags_of(pictures: list[Picture], table: Path, classes: list[str], *, separator: str) -> list[tuple[str, ...]]:
    """Each picture's tags, from a table as of source `folder` (see data.folder). Its other rows are not looked at.

    Raises InputError with every picture that has no row or several, and every tag that is no class.
    """
    names = Names(picture.path.as_posix() for picture in pictures)
    rows: dict[str, list[Row]] = defaultdict(list)
    shared: dict[str, Row] = {}
    for row in read_table(table, separator=separator, images=len(pictures), key="--tags").rows:
        fitting = names.fitting(row.image)
        if len(fitting) == 1:
            rows[fitting[0]].append(row)
        else:  # of several, or of none that was named now
            shared |= dict.fromkeys(fitting, row)
    problems, tagged = [], []
    for picture in pictures:
        found = rows[picture.path.as_posix()]
        if len(found) == 1:
            tagged.append((picture.id, found[0].where, found[0].tags))
            continue
        if found:
            why = f"{len(found)} rows ({', '.join(row.where for row in found)}); put its tags into one"
        elif row := shared.get(picture.path.as_posix()):
            why = f"{row.image!r} ({row.where}) may be another picture too; name more of its path"
        else:
            why = f"no row in {table}; name it there as {picture.path.name!r}, or by its path"
        problems.append(f"{picture.path}: {why}")
    problems += [fault.problem for fault in tag_faults(tagged, classes, else_hint=OTHER_TAG)]
    if problems:
        raise InputError(problems)
    return [tags for _, _, tags in tagged]
