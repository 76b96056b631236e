"""What an InputError says, a line a problem."""

from collections.abc import Callable, Iterable

import pytest

from dsrg.errors import InputError
from dsrg.sources.validation import Scan


def refusals(work: Callable, *arguments: object, **options: object) -> list[str]:
    """The problems with which this call must be refused, one line each."""
    with pytest.raises(InputError) as error:
        work(*arguments, **options)
    assert not any("\n" in problem for problem in error.value.problems)
    return error.value.problems


def problems_of(scan: Scan) -> list[str]:
    """All that is wrong in a scan, with lists and layout and with single images."""
    return [*scan.problems, *(fault.problem for fault in scan.faults)]


def assert_problems(found: list[str], reasons: Iterable[str], *, start: object = "") -> None:
    """As many lines as reasons, each with its own; all begin with `start`."""
    reasons = list(reasons)
    assert len(found) == len(reasons), found
    for line, reason in zip(found, reasons, strict=True):
        assert line.startswith(str(start)) and reason in line and "\n" not in line
