"""What an InputError says, a line a problem."""

from collections.abc import Callable, Iterable

import pytest

from dsrg.errors import InputError


def refusals(work: Callable, *arguments: object, **options: object) -> list[str]:
    """The problems with which this call must be refused, one line each."""
    with pytest.raises(InputError) as error:
        work(*arguments, **options)
    assert not any("\n" in problem for problem in error.value.problems)
    return error.value.problems


def assert_problems(found: list[str], reasons: Iterable[str], *, start: object = "") -> None:
    """As many lines as reasons, each with its own; all begin with `start`."""
    reasons = list(reasons)
    assert len(found) == len(reasons), found
    for line, reason in zip(found, reasons, strict=True):
        assert line.startswith(str(start)) and reason in line and "\n" not in line
