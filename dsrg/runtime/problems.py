"""Many problems on one screen: grouped by kind, ten of each, all of them in a file."""

import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from dsrg.errors import InputError
from dsrg.files import write_text
from dsrg.runtime.environment import scratch_root

LINES_OF_A_KIND = 10
KINDS = 20  # at most; a hundred kinds are one broken file

QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")
PATH = re.compile(r"\S*/\S*")
NUMBER = re.compile(r"\d+")


def kind_of(problem: str) -> str:
    """A problem without what tells its offender: the place before the first colon, quoted text, paths, numbers.

    >>> kind_of("t.csv:7: no image 'a'; expected its path") == kind_of("t.csv:12: no image 'b'; expected its path")
    True
    """
    _, _, what = problem.partition(": ")
    return NUMBER.sub("0", PATH.sub("/", QUOTED.sub("'", what or problem)))


def report_problems(problems: Iterable[str], *, name: str = "problems") -> list[str]:
    """Lines to print: all problems, or, of many, ten of each kind, how many more there are, and the file with all.

    The file is NAME.txt in the scratch folder of a project, else in the system's folder for temporary files.
    """
    problems = list(problems)
    groups: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        groups[kind_of(problem)].append(problem)
    shown = list(groups.values())[:KINDS]
    if len(shown) == len(groups) and all(len(group) <= LINES_OF_A_KIND for group in shown):
        return problems
    lines = []
    for group in shown:
        lines += group[:LINES_OF_A_KIND]
        if more := len(group) - LINES_OF_A_KIND:
            lines += [f"... and {more:,} more of this kind"] * (more > 0)
    if others := list(groups.values())[KINDS:]:
        lines.append(f"... and {sum(map(len, others)):,} of {len(others):,} other kinds")
    return [*lines, f"all {len(problems):,} lines: {_write(problems, name)}"]


def _write(problems: list[str], name: str) -> Path | str:
    text = "".join(f"{problem}\n" for problem in problems).encode(errors="backslashreplace").decode()
    path = scratch_root() / f"{name}.txt"
    if not Path("dvc.yaml").exists():
        path = Path(tempfile.gettempdir()) / f"dsrg-{os.getpid()}-{name}.txt"
    try:
        write_text(path, text)
    except (InputError, OSError) as error:
        return f"not written ({error})"
    return path
