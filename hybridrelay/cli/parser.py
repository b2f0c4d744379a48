"""The argument parser: what every command has in common, and a place for each."""

from __future__ import annotations

import argparse
import difflib
import itertools
import logging
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from .. import __version__
from . import exits, output
from .logs import logs_are_json

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

#: For the --help of what runs for long.
WHAT_IT_DOES = """\
On SIGUSR1 (kill -USR1 PID; not on Windows), it logs its current state: one line of JSON with the number of its
sessions, streams, tasks and descriptors, and its memory."""

#: Likewise; formatted with what the program reloads.
RELOADS = """\
SIGHUP (kill -HUP PID; not on Windows) makes it reload {what}, and never ends it. Open connections are not affected.
The log says what was reloaded; a file that cannot be used changes nothing."""

LEVELS = ("debug", "info", "warning", "error")

_DESCRIPTION = """\
Self-hosted Hybrid Connections: reach one TCP resource inside a private network that opens no inbound port.

  relay       on a public host: authenticates both sides, pairs them, and moves
              bytes that it cannot read
  connector   in the private network: dials out only, and opens the target
              (a database, an HTTP API ...)
  client      beside the application: 'forward' gives it a local port,
              'import hybridrelay' a library
"""

_EXAMPLES = """\
see it work, on this machine alone:
  hybridrelay demo

set it up (each command has its own --help):
  on the public host:
    hybridrelay relay --state /var/lib/hybridrelay
    hybridrelay connections create orders \\
      --target db.internal:5432 --endpoint relay.example.com \\
      --connector-file orders.connector --application-file orders.application \\
      --state /var/lib/hybridrelay
  in the private network:
    hybridrelay connector --connection-string-file orders.connector
  beside the application:
    hybridrelay forward --connection-string-file orders.application \\
        --listen 127.0.0.1:5432

exit codes:
  0 ended as asked for, 1 failed, 2 what was given cannot be used, 70 a bug,
  128+N ended by signal N (130: Ctrl-C); docs/operating.md says more
"""


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs to the width of the terminal, and leaves lines that are indented as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for keep, group in itertools.groupby(text.strip("\n").splitlines(), lambda line: line[:1] in {"", " "}):
            lines = list(group)
            filled += lines if keep else textwrap.wrap(" ".join(lines), width, break_on_hyphens=False)
        return "\n".join(indent + line for line in filled)


class Subparsers(Protocol):
    """What ``add_subparsers`` returns; its class has no public name."""

    def add_parser(
        self,
        name: str,
        *,
        help: str,  # noqa: A002
        description: str,
        epilog: str,
        formatter_class: type[argparse.HelpFormatter],
        parents: list[argparse.ArgumentParser],
        allow_abbrev: bool,
    ) -> Parser: ...


logger = logging.getLogger("hybridrelay.cli")

#: What other programs call the option --listen.
_LISTEN_ELSEWHERE = frozenset({"--port", "--host", "--bind", "--address", "--local"})


class Parser(argparse.ArgumentParser):
    """Says errors as the rest of the program does, and repeats no secret that was given as an argument."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if file is sys.stdout:
            output.say(message, end="")  # argparse would silently discard what cannot be written
        else:
            super()._print_message(message, file)

    # The superclass overloads it; what is given and returned is the same.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here, where the command is known whose --help lists the right ones."""
        given = list(sys.argv[1:] if args is None else args)
        options = [one.partition("=")[0] for one in itertools.takewhile("--".__ne__, given) if one[:2] == "--"]
        if self._subparsers is None:
            # Before something else is said to be missing, which may be the same option misspelled.
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
        """Print the error and where to find help, and exit with `exits.USAGE`."""
        if any("sharedaccesskey=" in argument.lower() for argument in sys.argv):
            # Arguments are visible to every user of the machine, and what we print may go to a log.
            message = "a connection string was given as an argument: write it to a file of mode 0600, or set "
            message += "HYBRIDRELAY_CONNECTION_STRING, and regenerate its key"
        remedy = f"{self.prog} --help"
        if logs_are_json():
            logger.error("%s", message, extra={"fields": {"remedy": remedy}})
            self.exit(exits.USAGE)
        self.exit(exits.USAGE, f"hybridrelay: error: {message}\n  try: {remedy}\n")


def _did_you_mean(given: str, known: Sequence[str]) -> str:
    if given in _LISTEN_ELSEWHERE and "--listen" in known:
        return "; did you mean --listen?"
    close = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def build_parser() -> Parser:
    """The whole parser. Its result has ``run``: the function that does the work and returns the exit code."""
    from .commands import bench, connections, connector, demo, forward, keys, probe, relay

    parser = Parser(
        prog="hybridrelay",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    _add_common(parser, suppress=False)
    subparsers = add_commands(parser, "command")
    for module in (demo, relay, connections, keys, connector, forward, probe, bench):
        module.add_parser(subparsers)
    return parser


def add_commands(parser: Parser, dest: str) -> Any:
    """Give a parser commands of its own. Called without one, it prints its help as an error (`exits.USAGE`)."""

    def explain(args: argparse.Namespace) -> int:
        parser.print_help(sys.stderr)
        return exits.USAGE

    parser.set_defaults(run=explain, default_log_level="warning")
    return parser.add_subparsers(title="commands", metavar="COMMAND", dest=dest)


def add_command(subparsers: Subparsers, name: str, summary: str, description: str, examples: str) -> Parser:
    """Add a command with the options that every command has.

    Args:
        subparsers: of the parser above it.
        name: as it is typed.
        summary: one line for the list of commands.
        description: what the command is for.
        examples: shown behind the options, as it is.
    """
    common = argparse.ArgumentParser(add_help=False)
    _add_common(common, suppress=True)
    return subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=HelpFormatter,
        parents=[common],
        allow_abbrev=False,
    )


def _add_common(parser: argparse.ArgumentParser, *, suppress: bool) -> None:
    """Options that may stand before the command or behind it; the later one must not reset the earlier."""
    default = argparse.SUPPRESS if suppress else None
    group = parser.add_argument_group("everywhere")
    group.add_argument("--version", action="version", version=f"hybridrelay {__version__}")
    group.add_argument(
        "--log-level",
        choices=LEVELS,
        type=str.lower,
        default=default,
        metavar="LEVEL",
        help="debug, info, warning or error; logs go to standard error (default: info for what runs for long)",
    )
    group.add_argument(
        "--log-json", action="store_true", default=default, help="one JSON object for each line of the log"
    )
