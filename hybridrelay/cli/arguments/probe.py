"""The arguments of ``hybridrelay probe``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import (
    WHERE_FROM,
    add_how_reached,
)

_DESCRIPTION = f"""\
Try every route from this machine to the relay, and report which one would be used. For each port, the report says
whether a connection and a round trip of data succeeded, how long they took, and what to do about a failure. The
command works with the connection string of a connector or of an application, and needs no connector. It does not test
whether a relay accepts the key.

If the connection string names several relays, all of them are tried at the same time. The output has a table and a
result for each relay, in the order of the connection string; with --json it is an array of their reports.

{WHERE_FROM}

The exit code is 0 if a route works (with several relays, to at least one of them), and 1 if none does.
"""
_EXAMPLES = """\
examples:
  hybridrelay probe --connection-string-file orders.application
  hybridrelay probe --connection-string-file orders.connector --mode tcp --json
  through a proxy:
    hybridrelay probe --connection-string-file orders.application \\
        --proxy http://me@proxy.corp:3128 --proxy-password-file password
"""


def _add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--connection-string-file",
        metavar="F",
        dest="file",
        help="a file with a connection string; - for standard input",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON, for programs: an object, or an array if there are several relays",
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=values.seconds(1),
        nargs="?",
        const=30.0,
        help="probe repeatedly until stopped, with this pause in between (default: 30); with --json, print each "
        "report on one line",
    )
    add_how_reached(parser)


COMMAND = Command(
    "probe",
    "try which routes to the relay work",
    _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    run="probe:run",
    log_level="warning",
    is_service=False,
)
