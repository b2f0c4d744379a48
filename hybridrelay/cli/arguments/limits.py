"""The arguments of ``hybridrelay connections limits`` and ``hybridrelay editions``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_name, add_relay

__all__ = ["COMMAND", "LIMITS"]

_LIMITS = """\
Show the limits of a hybrid connection at this relay, or set those that are given. 'none' removes a limit. Then the
limit of the hybrid connection's edition applies. If it has no edition, there is no limit (except 25 listeners).

When a limit is reached, the relay refuses further registrations or joins. The reason names the limit. Nothing ends,
except sessions with --end-at-limit yes. When four fifths of a limit are used, the relay logs quota.near.
--bytes-per-second slows sessions down.

Each relay counts separately: if the hybrid connection has several relays, set the limits at each of them.
"""
_LIMITS_EXAMPLES = """\
examples:
  hybridrelay connections limits orders --state /var/lib/hybridrelay
  hybridrelay connections limits orders --sessions 50 \\
      --bytes-per-month 200GB --bytes-per-second 5MB \\
      --state /var/lib/hybridrelay
"""
_EDITIONS = """\
Editions are named sets of limits: free, developer, basic, standard and premium. Their limits can be changed. A relay
can use an edition ('editions use'), which limits how many hybrid connections it has, and how many bytes it moves for
all of them in a calendar month (UTC). A hybrid connection can also have an edition of its own ('connections limits
NAME --edition'). By default, no edition is in use.
"""
_USE = """\
Choose the edition that the relay uses, or 'none'. If the relay already has more hybrid connections than the edition
allows, none is deleted, but none can be added. Once the bytes of the month are used up, no session can begin. Open
sessions continue, unless the edition has --end-at-limit yes.
"""
_SET = """\
Change the limits of an edition. Limits that are not given stay as they are. 'none' removes a limit.
"""


def _add_limits(parser: Parser) -> None:
    """Add the options that `cli/commands/limits.py` reads."""
    for option, type_, what in (
        ("--listeners", values.count_or_none, "the maximum number of registered connectors"),
        ("--senders", values.count_or_none, "the maximum number of control channels of clients"),
        (
            "--sessions",
            values.count_or_none,
            "the maximum number of sessions that run at the same time (pairs of data channels)",
        ),
        (
            "--bytes-per-month",
            values.size_or_none,
            "the maximum number of bytes in both directions together in a calendar month (UTC), such as 200GB",
        ),
        (
            "--bytes-per-second",
            values.size_or_none,
            "the maximum rate in both directions together, such as 5MB; at least 65536",
        ),
    ):
        parser.add_argument(option, metavar="N|none", type=type_, help=what)
    parser.add_argument(
        "--end-at-limit",
        choices=("yes", "no", "none"),
        help="whether sessions end when the bytes of the month are used up",
    )


def _add_limits_arguments(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument(
        "--edition",
        metavar="E|none",
        help="the edition whose limits apply where the hybrid connection has no limit of its own",
    )
    _add_limits(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_relay(parser)


def _add_list_arguments(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_relay(parser, role="viewer")


def _add_use_arguments(parser: Parser) -> None:
    parser.add_argument("edition", metavar="EDITION|none", help="the edition")
    add_relay(parser)


def _add_set_arguments(parser: Parser) -> None:
    parser.add_argument("edition", metavar="EDITION", help="the edition")
    parser.add_argument(
        "--connections",
        metavar="N|none",
        type=values.count_or_none,
        help="how many hybrid connections a relay that uses it may have",
    )
    _add_limits(parser)
    add_relay(parser)


LIMITS = Command(
    "limits",
    "show or set the limits of a hybrid connection",
    _LIMITS,
    _LIMITS_EXAMPLES,
    _add_limits_arguments,
    run="limits:run_limits",
)
COMMAND = Command(
    "editions",
    "list editions, choose one for the relay, or change one",
    _EDITIONS,
    "each command has its own --help:\n  hybridrelay editions use --help\n",
    subcommands=(
        Command(
            "list",
            "list the editions",
            "List the editions with their limits. The one that the relay uses is marked.",
            "example:\n  hybridrelay editions list --state /var/lib/hybridrelay\n",
            _add_list_arguments,
            run="limits:run_list",
        ),
        Command(
            "use",
            "choose the edition of the relay",
            _USE,
            "example:\n  hybridrelay editions use standard --state /var/lib/hybridrelay\n",
            _add_use_arguments,
            run="limits:run_use",
        ),
        Command(
            "set",
            "change the limits of an edition",
            _SET,
            "example:\n  hybridrelay editions set standard --bytes-per-month 1TB \\\n"
            "      --state /var/lib/hybridrelay\n",
            _add_set_arguments,
            run="limits:run_set",
        ),
    ),
)
