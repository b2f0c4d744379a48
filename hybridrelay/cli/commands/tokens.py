"""``hybridrelay tokens``: create, list, revoke."""

from __future__ import annotations

import argparse
import datetime as dt
import time

from ...administration import create_token, revoke_token
from ...relay import SQLiteStore
from ...security import ManagementRole, ManagementToken
from .. import exits, output


def run_create(args: argparse.Namespace) -> int:
    """Create a token, and write it to a file."""
    with SQLiteStore.open(args.state, create=False) as store:
        token = create_token(
            store,
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
    with SQLiteStore.open(args.state, create=False) as store:
        tokens = store.tokens()
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
    with SQLiteStore.open(args.state, create=False) as store:
        token = revoke_token(store, args.which, before_change=args.signals.hold)
    output.say(f"revoked token {token.name} ({token.id})")
    return exits.OK


def _row(token: ManagementToken, now: float) -> tuple[str, ...]:
    return (
        token.name,
        token.id,
        token.role.name.lower(),
        token.scope or "everything",
        _time(token.expires_at) + (" (expired)" if now >= token.expires_at else ""),
        "never" if token.last_used_at is None else _time(token.last_used_at),
    )


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _as_dict(token: ManagementToken) -> dict[str, object]:
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
