"""``hybridrelay audit``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial

import msgspec

from ...events.plain_log import fields_text
from ...management import BlockingClient, ManagementClient
from ...management.audit import AuditValue
from ...management.audit_log import AuditEntry, AuditFilter, read_audit
from ...relay.store.state_dir import prepare_state_directory
from .. import exits, output
from ..relay_access import open_client
from ..times import utc_text

_PAGE = 1000


def run(args: argparse.Namespace) -> int:
    """Show the audit log."""
    since = None if args.since is None else time.time() - args.since
    with open_client(args) as client:
        entries = _read_files(args, since) if client is None else _ask(client, args, since)
    entries.reverse()
    if args.json:
        output.say_json(msgspec.to_builtins(entries))
    elif not entries:
        output.say("there are no such entries")
    else:
        header = ("TIME", "CALLER", "ADDRESS", "OPERATION", "STATUS", "ABOUT")
        output.say(output.table(header, map(_row, entries), right=frozenset({4})))
    return exits.OK


def _ask(client: BlockingClient, args: argparse.Namespace, since: float | None) -> list[AuditEntry]:
    found: list[AuditEntry] = []
    cursor: str | None = None
    while True:
        query = {
            "limit": min(args.limit - len(found), _PAGE),
            "cursor": cursor,
            "caller": args.caller or None,
            "operation": args.operation or None,
            "connection": args.connection,
            "since": since,
        }
        page = client.run(partial(_get, query=query))
        found += page.value
        cursor = page.next_cursor
        if cursor is None or len(found) >= args.limit:
            return found


async def _get(client: ManagementClient, query: Mapping[str, str | float | None]) -> AuditValue:
    return await client.get("/v1/audit", AuditValue, query=query)


def _read_files(args: argparse.Namespace, since: float | None) -> list[AuditEntry]:
    prepare_state_directory(args.state, create=False)
    wanted = AuditFilter(caller=args.caller, operation=args.operation, connection=args.connection or "", since=since)
    found: list[AuditEntry] = []
    before: int | None = None
    while True:
        page = read_audit(args.state, wanted, args.limit - len(found), before)
        found += page.entries
        before = page.next_before
        if before is None or len(found) >= args.limit:
            return found


def _row(entry: AuditEntry) -> tuple[str, ...]:
    about = {"connection": entry.connection, "rule": entry.rule, "token": entry.token}
    caller = entry.caller if entry.caller.isprintable() else repr(entry.caller)
    return (
        utc_text(entry.time),
        caller or "unknown",
        entry.peer,
        entry.operation,
        str(entry.status or "none"),
        fields_text({name: value for name, value in about.items() if value}),
    )
