"""`dsrg ...` and benchmarks as people call them, in this process."""

import click
from click.testing import CliRunner

from dsrg.commands import main


def outcome(*arguments: object) -> tuple[int, str]:
    """The exit code of `dsrg ARGUMENTS` and what it says. A traceback fails the test."""
    result = CliRunner().invoke(main, [*map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def run_dsrg(*arguments: object, code: int = 0) -> str:
    """What `dsrg ARGUMENTS` says; it must end with this exit code."""
    found, said = outcome(*arguments)
    assert found == code, said
    return said


def run_command(command: click.Command, *arguments: object) -> str:
    """What another command says, which must succeed."""
    result = CliRunner().invoke(command, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output
