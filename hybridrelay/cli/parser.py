"""The table of commands, and the parser that is made from it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from .._version import __version__
from . import exits
from .arguments import (
    audit_commands,
    bench,
    claims,
    connections,
    connector,
    demo,
    events,
    forward,
    hosts,
    keys,
    limits,
    policy,
    probe,
    relay,
    relay_stdio,
    rules,
    run,
    service,
    status,
    tokens,
    updates,
    usage,
)
from .command import Command
from .parsing import HelpFormatter, Parser

LEVELS = ("debug", "info", "warning", "error")

_DESCRIPTION = """\
Self-hosted Hybrid Connections: reach one service inside a private network that has no open inbound port.

  relay       on a public host: authenticates both sides, pairs them, and moves
              bytes that it cannot read
  connector   in the private network: only dials out, and connects to the
              target (a database, an HTTP API ...)
  client      beside the application: the command 'forward', which opens a
              local port, or 'run', which starts the application so that it
              sees the target's own name; or the Python library, inside the
              application
"""

_EXAMPLES = """\
see it work, on this machine alone:
  hybridrelay demo

set it up (each command has its own --help):
  on the public host:
    hybridrelay relay --state /var/lib/hybridrelay
  on your own machine, which keeps orders.authority (the pin is in the relay's
  ready line):
    hybridrelay connections create orders \\
      --target db.internal:5432 --endpoint relay.example.com \\
      --connector-file orders.connector --application-file orders.application \\
      --relay-file orders.relay --relay-pin sha256:...
  on the public host, to which you have copied orders.relay:
    hybridrelay connections import orders.relay --state /var/lib/hybridrelay
  in the private network:
    hybridrelay connector --connection-string-file orders.connector
  beside the application:
    hybridrelay forward --connection-string-file orders.application \\
        --listen 127.0.0.1:5432
  or, for one application, which keeps the host name and port that it knows:
    hybridrelay run --connection-string-file orders.application -- psql ...

exit codes:
  0 success, or stopped on request; 1 failure; 2 unusable input; 3 denied by
  policy; 4 audit files were changed; 70 a bug; 125 run itself has failed, not
  its application; 128+N ended by signal N (130: Ctrl-C); see
  docs/operating.md
"""


#: The commands in the order of ``--help``.
COMMANDS: tuple[Command, ...] = (
    demo.COMMAND,
    relay.COMMAND,
    status.STATUS,
    status.DROP,
    status.DRAIN,
    events.COMMAND,
    audit_commands.COMMAND,
    connections.COMMAND,
    claims.COMMAND,
    rules.COMMAND,
    keys.COMMAND,
    updates.COMMAND,
    limits.COMMAND,
    usage.COMMAND,
    tokens.COMMAND,
    connector.COMMAND,
    forward.COMMAND,
    hosts.COMMAND,
    run.COMMAND,
    policy.COMMAND,
    probe.COMMAND,
    service.COMMAND,
    relay_stdio.COMMAND,
    bench.COMMAND,
)


class Subparsers(Protocol):
    """The type of the result of ``add_subparsers``, whose class has no public name."""

    def add_parser(
        self,
        name: str,
        *,
        help: str,  # noqa: A002
        description: str,
        epilog: str,
        formatter_class: type[argparse.HelpFormatter],
        allow_abbrev: bool,
    ) -> Parser: ...


def build_parser() -> Parser:
    """Build the parser of all commands. The arguments of a command are added when it is known which one is run.

    The parsed arguments have an attribute `run`: the function that runs the command and returns the exit code.
    """
    parser = Parser(
        prog="hybridrelay",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    _add_common(parser, suppress=False)
    _add_commands(parser, "command", COMMANDS)
    return parser


def _add_commands(parser: Parser, dest: str, commands: tuple[Command, ...]) -> None:
    """Add commands to a parser. If none is given, the help is printed, and the exit code is `exits.USAGE`."""

    def explain(args: argparse.Namespace) -> int:
        parser.print_help(sys.stderr)
        return exits.USAGE

    parser.set_defaults(run=explain, default_log_level="warning", is_service=False, failure_code=None)
    subparsers: Any = parser.add_subparsers(title="commands", metavar="COMMAND", dest=dest)
    for command in commands:
        _add_command(subparsers, command)


def _add_command(subparsers: Subparsers, command: Command) -> None:
    parser = subparsers.add_parser(
        command.name,
        help=command.summary,
        description=command.description,
        epilog=command.examples,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    if command.failure_code is not None:
        parser.error_code = command.failure_code
    parser.add_when_used(partial(_add_arguments, parser, command))


def _add_arguments(parser: Parser, command: Command) -> None:
    _add_common(parser, suppress=True)
    command.add_arguments(parser)
    if command.subcommands:
        _add_commands(parser, "subcommand", command.subcommands)
    else:
        parser.set_defaults(
            run=_importing(command),
            default_log_level=command.log_level,
            is_service=command.is_service,
            failure_code=command.failure_code,
        )


def _importing(command: Command) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        return command.load()(args)

    return run


def _add_common(parser: argparse.ArgumentParser, *, suppress: bool) -> None:
    """Add the options that are allowed before and after the command's name.

    With `suppress`, an option that is not given after the name does not overwrite one that was given before it.
    """
    default = argparse.SUPPRESS if suppress else None
    group = parser.add_argument_group("common options")
    group.add_argument("--version", action="version", version=f"hybridrelay {__version__}")
    group.add_argument(
        "--log-level",
        choices=LEVELS,
        type=str.lower,
        default=default,
        metavar="LEVEL",
        help="debug, info, warning or error; logs go to standard error (default: info for relay, connector and "
        "forward, error for demo, otherwise warning)",
    )
    group.add_argument(
        "--log-json", action="store_true", default=default, help="write each line of the log as a JSON object"
    )
