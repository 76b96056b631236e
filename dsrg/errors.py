"""The errors that end with a message and no traceback, and what messages are made of."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(Exception):
    """Something given to the program is wrong: a file, a line, a key. The user's to fix; exit code 2.

    `problems` holds one line per offender; each names the file, line or key, what was expected and what to do.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class RunError(Exception):
    """The work cannot go on as things are, though nothing given is wrong: memory, a worker, another run. Exit code 1.

    The message says what happened and what to do; notes (`add_note`) add what was kept.
    """


@contextmanager
def collecting(problems: list[str]) -> Iterator[None]:
    """An InputError inside is no error yet: its problems are added to those found so far."""
    try:
        yield
    except InputError as error:
        problems += error.problems


@contextmanager
def advised(advice: str) -> Iterator[None]:
    """Each problem of an InputError inside ends with this advice."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{problem}; {advice}" for problem in error.problems) from None


def one_line(error: Exception) -> str:
    """What another library says is wrong, in a line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def few(names: Iterable[object], most: int = 5) -> str:
    """Names for a line of a message: the first of them, and how many more there are.

    >>> few("abc"), few("abcdefgh", 3)
    ('a, b, c', 'a, b, c and 5 more')
    """
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: in another case, or spelled nearly so.

    >>> nearest("Dog", ["dot", "dog"]), nearest("catt", ["dog", "cat"]), nearest("x", ["dog"])
    ('dog', 'cat', None)
    """
    known, name = list(known), name[:80]
    same = [other for other in known if other.casefold() == name.casefold()]
    return next(iter(same or get_close_matches(name, known, n=1)), None)
