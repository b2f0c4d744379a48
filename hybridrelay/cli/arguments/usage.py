"""The arguments of ``hybridrelay usage``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_relay

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Show the usage of a running relay in this calendar month (UTC), for all hybrid connections together, and the limits of
the relay's edition. With NAME, show the usage of one hybrid connection, its limits, and earlier months. If the relay
is killed, at most the last 10 seconds are lost.
"""
_EXAMPLES = """\
examples:
  hybridrelay usage --state /var/lib/hybridrelay
  hybridrelay usage orders --state /var/lib/hybridrelay
  hybridrelay usage --json --state state | jq .bytes
"""


def _add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "name", metavar="NAME", nargs="?", type=values.connection_name, help="the name of a hybrid connection"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_relay(parser, has_to_run=True, role="viewer")


COMMAND = Command(
    "usage",
    "show how many bytes were moved this month, and the limits",
    _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    run="usage:run",
)
