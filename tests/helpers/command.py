"""`dsrg ...` as people call it, in this process."""

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
