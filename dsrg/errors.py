"""The errors that end with a message and no traceback."""

from collections.abc import Iterable


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
