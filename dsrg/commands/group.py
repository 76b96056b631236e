"""The command `dsrg`: one group, whose commands turn errors into messages and exit codes."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from dsrg.errors import InputError, RunError
from dsrg.runtime.problems import report_problems


class _Group(click.Group):
    """Turns an InputError into its message and exit code 2, a RunError into its own and 1."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except (InputError, RunError) as error:
            lines = report_problems(error.problems) if isinstance(error, InputError) else [str(error)]
            click.echo("\n".join([*lines, *getattr(error, "__notes__", [])]), err=True)
            sys.exit(2 if isinstance(error, InputError) else 1)


@click.group(cls=_Group, context_settings={"max_content_width": 120})
@click.version_option(package_name="dsrg")
def main() -> None:
    """Image tags to pixel masks by Deep Seeded Region Growing.

    The pipeline itself runs with `dvc repro`; these commands look at what goes in and what comes out.
    """


def refuse(problems: list[str]) -> None:
    """Raise an InputError with all problems and their number, if there are any."""
    if problems:
        error = InputError(problems)
        error.add_note(f"{len(problems)} problem{'s' * (len(problems) > 1)}")
        raise error


@contextmanager
def quick_imports() -> Iterator[None]:
    """Imports that Python does not search for garbage, now or later: a cold `predict` takes a fifth less time."""
    if "torch" in sys.modules:  # in a program of somebody's own
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
