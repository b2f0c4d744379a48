"""The arguments of ``hybridrelay tokens`` and its subcommands."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_relay

_DESCRIPTION = """\
Tokens with which programs and people call the management API of a relay (relay --management): the header
'Authorization: Bearer TOKEN'. The relay keeps only a hash of each token. docs/management.md describes the API.

Roles, each of which may do what those before it may:
  viewer     see everything but keys and tokens
  operator   end what runs now, such as a listener's registration
  admin      change hybrid connections, rules, keys and tokens, and see keys
"""
_CREATE = """\
Make a token, and write it to a new file that only you can read. It is shown nowhere else, and cannot be shown again.

With --scope, the token is only for hybrid connections whose names begin with PREFIX, and for nothing that is about
the whole relay. End the prefix with a slash: 'team/' covers 'team/orders' and not 'team-b'.
"""
_CREATE_EXAMPLE = """\
example:
  hybridrelay tokens create monitoring --role viewer --expires 90d \\
      --out monitoring.token --state /var/lib/hybridrelay
"""


def _add_list_arguments(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON for programs")
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
        help="how long it is valid: 12h, 30d; at most 365d (default: 30d)",
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
    "each of them has its own --help:\n  hybridrelay tokens create --help\n",
    subcommands=(
        Command("create", "make a token", _CREATE, _CREATE_EXAMPLE, _add_create_arguments, run="tokens:run_create"),
        Command(
            "list",
            "list the tokens",
            "List the tokens: role, scope, when they expire, and when they were last used (about a minute late).",
            "example:\n  hybridrelay tokens list --state /var/lib/hybridrelay\n",
            _add_list_arguments,
            run="tokens:run_list",
        ),
        Command(
            "revoke",
            "revoke a token",
            "Remove a token. The next request that uses it is refused.",
            "example:\n  hybridrelay tokens revoke monitoring --state /var/lib/hybridrelay\n",
            _add_revoke_arguments,
            run="tokens:run_revoke",
        ),
    ),
)
