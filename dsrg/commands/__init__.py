"""The command line, a file for each kind of commands."""

from dsrg.commands import cues, data, look, predict  # noqa: F401  (each adds its commands to the group)
from dsrg.commands.group import main

__all__ = ["main"]
