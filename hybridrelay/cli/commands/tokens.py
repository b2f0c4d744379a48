"""``hybridrelay tokens``: create, list, revoke."""

from __future__ import annotations

import argparse
import time

from ...administration import TokenInfo, create_token, revoke_token
from ...security import ManagementRole
from .. import exits, output
from ..relay_access import open_registry
from ..times import utc_text


def run_create(args: argparse.Namespace) -> int:
    """Create a token, and write it to a file."""
    with open_registry(args) as registry:
        token = create_token(
            registry,
            args.name,
            ManagementRole[args.role.upper()],
            args.out,
            scope=args.scope,
            seconds=args.expires,
            now=time.time(),
            before_change=args.signals.hold,
        )
    output.say(f"created token {token.name} ({token.id}), valid until {_time(token.expires_at)}: {args.out}")
    return exits.OK


def run_list(args: argparse.Namespace) -> int:
    """List the tokens."""
    with open_registry(args) as registry:
        tokens = registry.tokens()
    if args.json:
        output.say_json([_as_dict(token) for token in tokens])
    elif not tokens:
        output.say("There are no tokens. To create one: hybridrelay tokens create --help")
    else:
        heads = ("NAME", "ID", "ROLE", "SCOPE", "EXPIRES", "LAST USED")
        output.say(output.table(heads, [_row(token, time.time()) for token in tokens]))
    return exits.OK


def run_revoke(args: argparse.Namespace) -> int:
    """Revoke a token."""
    with open_registry(args) as registry:
        token = revoke_token(registry, args.which, before_change=args.signals.hold)
    output.say(f"revoked token {token.name} ({token.id})")
    return exits.OK


def _row(token: TokenInfo, now: float) -> tuple[str, ...]:
    return (
        token.name,
        token.id,
        token.role.name.lower(),
        token.scope or "everything",
        _time(token.expires_at) + (" (expired)" if now >= token.expires_at else ""),
        "never" if token.last_used_at is None else _time(token.last_used_at),
    )


def _time(seconds: float) -> str:
    return utc_text(seconds)


def _as_dict(token: TokenInfo) -> dict[str, object]:
    """Return the token for JSON. Times are seconds since 1970. Later versions may add keys, but remove none."""
    return {
        "name": token.name,
        "id": token.id,
        "role": token.role.name.lower(),
        "scope": token.scope,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "last_used_at": token.last_used_at,
    }
