"""``hybridrelay audit calls``."""

from __future__ import annotations

import argparse
from functools import partial

import msgspec

from ...events.plain_log import fields_text
from ...management import ManagementClient
from ...management.audit import AuditValue
from ...management.audit_entries import AuditEntry, AuditFilter, read_audit
from ...management.paging import PAGE, PageReader
from ...relay.store.state_dir import prepare_state_directory
from .. import exits, output
from ..relay_access import open_client
from ..times import utc_text


def run(args: argparse.Namespace) -> int:
    """Show the audit log of the management API."""
    with open_client(args) as client:
        entries = _read_files(args) if client is None else client.run(partial(_ask, args=args))
    entries.reverse()
    if args.json:
        output.say_json(msgspec.to_builtins(entries))
    elif not entries:
        output.say("no entries match")
    else:
        header = ("TIME", "CALLER", "ADDRESS", "OPERATION", "STATUS", "ABOUT")
        output.say(output.table(header, map(_row, entries), right=frozenset({4})))
    return exits.OK


async def _ask(client: ManagementClient, args: argparse.Namespace) -> list[AuditEntry]:
    query = {
        "limit": min(args.limit, PAGE),
        "caller": args.caller or None,
        "operation": args.operation or None,
        "connection": args.connection,
        "since": args.since,
    }
    reader, found = PageReader(client, "/v1/audit", AuditValue, query), list[AuditEntry]()
    while len(found) < args.limit and (page := await reader.next()) is not None:
        found += page.value
    return found[: args.limit]


def _read_files(args: argparse.Namespace) -> list[AuditEntry]:
    prepare_state_directory(args.state, create=False)
    wanted = AuditFilter(
        caller=args.caller, operation=args.operation, connection=args.connection or "", since=args.since
    )
    found: list[AuditEntry] = []
    before: int | None = None
    while True:
        page = read_audit(args.state, wanted, args.limit - len(found), before)
        found += page.entries
        before = page.next_before
        if before is None or len(found) >= args.limit:
            return found


def _row(entry: AuditEntry) -> tuple[str, ...]:
    about = {"connection": entry.connection, "rule": entry.rule, "token": entry.token, "claim": entry.claim}
    caller = entry.caller if entry.caller.isprintable() else repr(entry.caller)
    return (
        utc_text(entry.time),
        caller or "unknown",
        entry.peer,
        entry.operation,
        f"{entry.status or 'none'}{', unchanged' if entry.unchanged else ''}",
        fields_text({name: value for name, value in about.items() if value}),
    )
