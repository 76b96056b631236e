"""`dsrg ...` as people call it, in this process."""

from click.testing import CliRunner

from dsrg.commands import main


def run_dsrg(*arguments: object, code: int = 0) -> str:
    """What `dsrg ARGUMENTS` says; it must end with this exit code, and with no traceback."""
    result = CliRunner().invoke(main, [*map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output
