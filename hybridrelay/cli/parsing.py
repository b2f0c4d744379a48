"""The argument parser's classes, which format the help and report errors."""

from __future__ import annotations

import argparse
import difflib
import itertools
import logging
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from . import exits, output
from .logs import logs_are_json

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

logger = logging.getLogger("hybridrelay.cli")

#: The names that other programs use for the option --listen.
_LISTEN_ELSEWHERE = frozenset({"--port", "--host", "--bind", "--address", "--local"})


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs to the width of the terminal, and does not change indented lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for keep, group in itertools.groupby(text.strip("\n").splitlines(), lambda line: line[:1] in {"", " "}):
            lines = list(group)
            filled += lines if keep else textwrap.wrap(" ".join(lines), width, break_on_hyphens=False)
        return "\n".join(indent + line for line in filled)


class Parser(argparse.ArgumentParser):
    """Reports errors like the rest of the program, and does not repeat a secret that was given as an argument."""

    #: The exit code if the arguments cannot be used.
    error_code: int = exits.USAGE
    #: The arguments that are being parsed.
    _given: Sequence[str] = ()
    #: Adds the parser's arguments, until it has done so; see `add_when_used`.
    _add_arguments: Callable[[], None] | None = None

    def add_when_used(self, add_arguments: Callable[[], None]) -> None:
        """Call `add_arguments` when this parser begins to parse. Most parsers of commands are never used."""
        self._add_arguments = add_arguments

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if file is sys.stdout:
            output.say(message, end="")  # argparse would silently ignore errors of writing
        else:
            super()._print_message(message, file)

    # The superclass declares overloads of this method; its arguments and results are the same.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments in the command's own parser, so that the error names that command's --help."""
        if self._add_arguments is not None:
            self._add_arguments()
            self._add_arguments = None
        given = self._given = list(sys.argv[1:] if args is None else args)
        options = [one.partition("=")[0] for one in itertools.takewhile("--".__ne__, given) if one[:2] == "--"]
        if self._subparsers is None:
            # This comes before argparse reports a missing option, because the unknown one may be a misspelling of it.
            self._refuse_unknown([one for one in options if one not in self._option_string_actions])
        found, unknown = super().parse_known_args(given, namespace)
        if self._subparsers is None:
            found.given_options = frozenset(options)
        self._refuse_unknown(unknown)
        return found, unknown

    def _refuse_unknown(self, unknown: Sequence[str]) -> None:
        if unknown:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            self.error(f"unknown argument {unknown[0]}{_did_you_mean(unknown[0], known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.metavar == "COMMAND" and action.choices is not None and value not in action.choices:
            self.error(f"there is no command {value!r}{_did_you_mean(value, list(action.choices))}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """Print the error and where to find help, and exit with the `error_code` of the command that the arguments
        name, even if an argument before the command cannot be used."""
        if any("sharedaccesskey=" in argument.lower() for argument in sys.argv):
            # Arguments are visible to every user of the machine, and the error may be written to a log.
            message = "a connection string was given as an argument: write it to a file of mode 0600, or set "
            message += "HYBRIDRELAY_CONNECTION_STRING, and regenerate its key"
        elif any(argument.lower().startswith("hrc1.") for argument in sys.argv):
            message = "the code of a claim was given as an argument: give it in a file, on standard input or in "
            message += (
                "HYBRIDRELAY_CLAIM_CODE; others may have seen it, so have the claim revoked, and a new one made"
            )
        remedy, code = f"{self.prog} --help", self._named_command().error_code
        if logs_are_json():
            logger.error("%s", message, extra={"fields": {"remedy": remedy}})
            self.exit(code)
        self.exit(code, f"hybridrelay: error: {message}\n  try: {remedy}\n")

    def _named_command(self) -> Parser:
        """Return the parser of the command that the arguments name, or this parser."""
        commands: Any = next((one.choices for one in self._actions if one.metavar == "COMMAND"), None) or {}
        arguments = iter(self._given)
        for argument in arguments:
            option = self._option_string_actions.get(argument)
            if option is not None and option.nargs is None:
                next(arguments, None)  # the value of the option
            elif not argument.startswith("-"):
                named: Parser = commands.get(argument, self)
                return named
        return self


def _did_you_mean(given: str, known: Sequence[str]) -> str:
    if given in _LISTEN_ELSEWHERE and "--listen" in known:
        return "; did you mean --listen?"
    close = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
