"""The class of the entries in the table of commands (`hybridrelay.cli.parser`)."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import NamedTuple

from .._collector import no_collections
from .parsing import Parser


def _no_arguments(parser: Parser) -> None:
    pass


class Command(NamedTuple):
    """A command, or a group of commands."""

    #: The name, as the user types it.
    name: str
    #: The line in the list of commands.
    summary: str
    #: The description at the beginning of the command's help.
    description: str
    #: The text after the options in the command's help. Its lines are not re-wrapped.
    examples: str
    #: Adds the command's options to the command's parser.
    add_arguments: Callable[[Parser], None] = _no_arguments
    #: ``module:function`` in `hybridrelay.cli.commands`. The function gets the arguments and returns the exit code.
    run: str = ""
    log_level: str = "warning"
    #: Whether the command runs until it is stopped, and reloads at SIGHUP.
    is_service: bool = False
    #: The exit code of every failure of the command itself; None: it depends on the failure (see `exits`).
    failure_code: int | None = None
    #: The commands of a group, which has no `run`.
    subcommands: tuple[Command, ...] = ()

    def load(self) -> Callable[[argparse.Namespace], int]:
        """Import and return the function that runs the command."""
        module, _, function = self.run.partition(":")
        with no_collections():
            loaded = importlib.import_module(f"{__package__}.commands.{module}")
        found: Callable[[argparse.Namespace], int] = getattr(loaded, function)
        return found
