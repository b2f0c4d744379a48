"""The arguments of ``hybridrelay tokens`` and its subcommands."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_relay

_DESCRIPTION = """\
Create, list or revoke tokens for the management API of a relay (relay --management). Programs and people send a token
in the header 'Authorization: Bearer TOKEN'. The relay stores only a hash of it. docs/management.md describes the API.

Each role also allows what the roles before it allow:
  viewer     see everything except keys and tokens
  operator   end listeners, senders and sessions, and drain the relay or one of
             its connectors
  admin      change hybrid connections, rules, keys and tokens, and see keys
"""
_CREATE = """\
Create a token, and write it to a new file that only you can read. It cannot be shown again.

With --scope, the token allows only operations on hybrid connections whose names begin with PREFIX, and none on the
relay as a whole. End the prefix with a slash: 'team/' includes 'team/orders', but not 'team-b'.
"""
_CREATE_EXAMPLE = """\
example:
  hybridrelay tokens create monitoring --role viewer --expires 90d \\
      --out monitoring.token --state /var/lib/hybridrelay
"""


def _add_list_arguments(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_relay(parser)


def _add_create_arguments(parser: Parser) -> None:
    parser.add_argument(
        "name", metavar="NAME", type=values.token_name, help="a unique name for the token, shown in lists and logs"
    )
    parser.add_argument("--role", required=True, choices=("viewer", "operator", "admin"), help="what it allows")
    parser.add_argument(
        "--scope",
        metavar="PREFIX",
        type=values.scope,
        default="",
        help="only for hybrid connections whose names begin with this (default: the whole relay)",
    )
    parser.add_argument(
        "--expires",
        metavar="TIME",
        type=values.lifetime,
        default=30 * 86_400.0,
        help="how long it is valid, such as 12h or 30d; at most 365d (default: 30d)",
    )
    parser.add_argument("--out", metavar="F", type=values.path, required=True, help="the new file for the token")
    add_relay(parser)


def _add_revoke_arguments(parser: Parser) -> None:
    parser.add_argument("which", metavar="NAME", help="the name of the token, or its id")
    add_relay(parser)


COMMAND = Command(
    "tokens",
    "create, list or revoke tokens for the management API",
    _DESCRIPTION,
    "each command has its own --help:\n  hybridrelay tokens create --help\n",
    subcommands=(
        Command("create", "create a token", _CREATE, _CREATE_EXAMPLE, _add_create_arguments, run="tokens:run_create"),
        Command(
            "list",
            "list the tokens",
            "List the tokens, with role, scope, expiry, and the time of the last use (updated once a minute).",
            "example:\n  hybridrelay tokens list --state /var/lib/hybridrelay\n",
            _add_list_arguments,
            run="tokens:run_list",
        ),
        Command(
            "revoke",
            "revoke a token",
            "Revoke a token. It is refused from the next request on.",
            "example:\n  hybridrelay tokens revoke monitoring --state /var/lib/hybridrelay\n",
            _add_revoke_arguments,
            run="tokens:run_revoke",
        ),
    ),
)
