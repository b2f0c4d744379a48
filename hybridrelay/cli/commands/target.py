"""``hybridrelay connections target``: another target for a hybrid connection that exists."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import exits, output, values
from ..parser import Subparsers, add_command
from ..shared_options import add_update

if TYPE_CHECKING:
    from pathlib import Path

_TARGET = """\
Change the target of a hybrid connection: the host and port that the connector dials. Only the connector's connection
strings and the authority file carry it, so neither the relay nor the applications have to be changed.

Give the files with --update, then send SIGHUP to the connector: new connections go to the new target, and those that
are open stay where they are.
"""
_TARGET_EXAMPLE = """\
example:
  hybridrelay connections target orders --target db2.internal:5432 \\
      --update orders.connector orders.authority
"""


def add_target(below: Subparsers) -> None:
    """Add the command."""
    parser = add_command(below, "target", "change what the connector dials", _TARGET, _TARGET_EXAMPLE)
    parser.add_argument("name", metavar="NAME", type=values.connection_name, help="the hybrid connection")
    parser.add_argument(
        "--target",
        metavar="HOST:PORT",
        type=values.target,
        required=True,
        help="what the connector dials; IPv6 as [::1]:5432",
    )
    add_update(parser, means="connectors' connection string files and authority files: give them the new target")
    parser.set_defaults(run=run_target, default_log_level="warning")


def run_target(args: argparse.Namespace) -> int:
    """Change the target."""
    from ...errors import ConfigurationError
    from ..changes import change_with_files, only_command_on

    if not args.update:
        raise ConfigurationError("no file is to be changed", remedy="name the files with --update")
    with only_command_on(args.update):
        change_with_files(
            lambda: None,
            hold=args.signals.hold,
            replace={path: _with_target(path, args) for path in args.update},
            what="the other files are unchanged",
            remedy="make it possible to write these files, and run the command again",
        )
    output.say("Send SIGHUP to the connectors that use these files.")
    return exits.OK


def _with_target(path: Path, args: argparse.Namespace) -> str:
    """The file's text with the new target.

    Raises:
        ConfigurationError: it is for another hybrid connection, or carries no target.
    """
    import attrs

    from ...errors import ConfigurationError
    from ...security import ConnectionString, Role
    from ..key_holders import read_string_or_authority

    content = read_string_or_authority(path)
    owner = content.entity_path if isinstance(content, ConnectionString) else content.authority.connection_name
    if owner != args.name:
        raise ConfigurationError(f"{path} is for {owner}, not for {args.name}")
    if not isinstance(content, ConnectionString):
        return attrs.evolve(content, extra={**content.extra, "target": str(args.target)}).format()
    if content.role is not Role.CONNECTOR:
        raise ConfigurationError(
            f"{path} is an application's connection string, which has no target",
            remedy="leave it out: applications follow the connector",
        )
    return attrs.evolve(content, target=args.target).format() + "\n"
