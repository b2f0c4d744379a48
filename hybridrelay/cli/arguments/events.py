"""The arguments of ``hybridrelay events``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_relay

_EVENTS = """\
Show the latest events of a running relay, the oldest first: registrations, sessions, changed keys, refused tokens and
others. docs/events.md describes all of them. The relay keeps the latest 10,000.

With --follow, events are shown as they happen, until Ctrl-C. If the relay is restarted in the meantime, the command
waits for it and continues.

With --json, each event is a JSON object in a line of its own. To continue later, give --since the 'number' of the
last one.
"""
_EVENTS_EXAMPLES = """\
examples:
  hybridrelay events --state /var/lib/hybridrelay
  hybridrelay events --follow --state /var/lib/hybridrelay
  warnings and errors only, such as refused tokens:
    hybridrelay events --follow --json --state state |
        jq 'select(.level != "info")'
"""


def _add_events_arguments(parser: Parser) -> None:
    parser.add_argument("--follow", action="store_true", help="show events as they happen, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each event, for programs")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=values.count,
        default=50,
        help="show at most this many of the latest events (default: 50)",
    )
    parser.add_argument(
        "--since",
        metavar="NUMBER",
        type=values.event_number,
        help="show all events after the one with this number, instead of the latest (--limit)",
    )
    add_relay(parser, has_to_run=True, role="viewer")


COMMAND = Command(
    "events",
    "show the latest events of a running relay, or follow them",
    _EVENTS,
    _EVENTS_EXAMPLES,
    _add_events_arguments,
    run="events:run",
)
