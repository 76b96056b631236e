"""The one error that is the user's to mend: a message without a traceback, exit code 2."""

from collections.abc import Iterable


class InputError(Exception):
    """Something given to the program is wrong: a file, a line, a key.

    `problems` holds one line per offender; each names the file, line or key, what was expected and what to do.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
