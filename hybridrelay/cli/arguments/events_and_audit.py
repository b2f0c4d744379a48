"""The arguments of ``hybridrelay events`` and ``hybridrelay audit``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_relay

_EVENTS = """\
Show the latest events of a running relay, the oldest first: registrations, sessions, changed keys, refused tokens and
others. docs/events.md describes all of them. The relay keeps the latest 10,000.

With --follow, events are shown as they happen, until Ctrl-C. If the relay is restarted meanwhile, the command waits
for it and continues.

With --json, each event is a JSON object in a line of its own. To continue later, give --since the 'number' of the
last one.
"""
_EVENTS_EXAMPLES = """\
examples:
  hybridrelay events --state /var/lib/hybridrelay
  hybridrelay events --follow --state /var/lib/hybridrelay
  warnings and errors only, such as refused tokens:
    hybridrelay events --follow --json --state state | jq 'select(.level != "info")'
"""
_AUDIT = """\
Show the audit log of a relay's management API, the oldest entry first: every call that changes something or shows
keys, with its caller, address and status, including calls that were refused (401 and 403). It also has what commands
with --state did while the relay was not running. Their caller is the user who ran the command ('local uid 1000').

The relay keeps the latest entries, up to 64 MB, in the directory 'audit' of its state directory. With --state, they
are read from there if the relay is not running.
"""
_AUDIT_EXAMPLES = """\
examples:
  hybridrelay audit --state /var/lib/hybridrelay
  who has changed keys of orders in the last week:
    hybridrelay audit --connection orders --operation regenerateKeys --since 7d \\
        --state /var/lib/hybridrelay
  what the token ci was used for:
    hybridrelay audit --caller 'token ci' --state /var/lib/hybridrelay
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
        help="show all events after the one with this number instead",
    )
    add_relay(parser, has_to_run=True)


def _add_audit_arguments(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=values.count,
        default=50,
        help="show at most this many of the latest entries (default: 50)",
    )
    parser.add_argument(
        "--since",
        metavar="TIME",
        type=values.age,
        help="only entries that are not older than this, such as 30m, 12h or 7d",
    )
    parser.add_argument(
        "--caller", metavar="C", default="", help="only callers that begin with this, such as 'local' or 'token ci'"
    )
    parser.add_argument("--operation", metavar="ID", default="", help="only this operation, such as regenerateKeys")
    parser.add_argument(
        "--connection", metavar="NAME", type=values.connection_name, help="only this hybrid connection"
    )
    add_relay(parser)


EVENTS = Command(
    "events",
    "show the latest events of a running relay, or follow them",
    _EVENTS,
    _EVENTS_EXAMPLES,
    _add_events_arguments,
    run="events:run",
)
AUDIT = Command(
    "audit",
    "show who has administered a relay: the audit log of its management API",
    _AUDIT,
    _AUDIT_EXAMPLES,
    _add_audit_arguments,
    run="audit:run",
)
