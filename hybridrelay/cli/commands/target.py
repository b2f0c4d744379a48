"""``hybridrelay connections target``: another target for a hybrid connection that exists."""

from __future__ import annotations

import argparse

from .. import exits, output, values
from ..parser import Subparsers, add_command
from ..shared_options import add_update

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
    from ...administration import change_target
    from ...errors import ConfigurationError
    from ..results import tell_updated

    if not args.update:
        raise ConfigurationError("no file is to be changed", remedy="name the files with --update")
    done = change_target(args.name, args.target, args.update, before_change=args.signals.hold)
    tell_updated(done.updated, done.incomplete)
    output.say("Send SIGHUP to the connectors that use these files.")
    return exits.OK
