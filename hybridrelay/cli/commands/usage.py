"""``hybridrelay usage``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from ...management import ManagementClient
from ...management.paging import read_pages
from ...management.usage import ConnectionUsage, NamedUsage, PeriodUsage, RelayUsage
from .. import async_output, exits, output
from ..relay_access import address_of
from ..running import run_until_stopped
from ..status_text import size
from ..times import utc_text


def run(args: argparse.Namespace) -> int:
    """Show the usage of a relay, or of one hybrid connection."""
    done = False
    address = address_of(args)

    async def main() -> None:
        nonlocal done
        client = ManagementClient(address)
        try:
            value: RelayUsage | ConnectionUsage
            if args.name is None:
                value = await _read(client)
                text = _relay_text(value)
            else:
                path = f"/v1/hybridConnections/{quote(args.name, safe='')}/usage"
                value = await client.get(path, ConnectionUsage)
                text = _connection_text(value)
        finally:
            await client.aclose()
        if args.json:
            text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        await async_output.say(text)
        done = True

    stopped_by = run_until_stopped(main)
    if done:
        return exits.OK
    assert stopped_by is not None
    return exits.SIGNAL + stopped_by


async def _read(client: ManagementClient) -> RelayUsage:
    """Return the usage of the relay, with all hybrid connections."""
    pages = await read_pages(client, "/v1/usage", RelayUsage)
    value = tuple(one for page in pages for one in page.value)
    return msgspec.structs.replace(pages[0], value=value, next_cursor=None)


def _relay_text(usage: RelayUsage) -> str:
    allowed = "" if usage.connections.allowed is None else f" of {usage.connections.allowed}"
    limit = "" if usage.bytes.allowed is None else f" of {size(usage.bytes.allowed)}"
    lines = [
        f"edition: {usage.edition or 'none'}",
        f"hybrid connections: {usage.connections.used}{allowed}",
        f"bytes in {_month(usage.usage)} (UTC): {size(usage.bytes.used)}{limit}",
    ]
    if usage.value:
        heads = ("CONNECTION", "BYTES", "ALLOWED", "TO CLIENTS", "TO CONNECTORS", "JOINS")
        lines += ["", output.table(heads, [_row(one) for one in usage.value], right=frozenset({1, 2, 3, 4, 5}))]
    return "\n".join([*lines, *_earlier(usage.earlier)])


def _row(one: NamedUsage) -> tuple[str, ...]:
    allowed = one.limits.bytes_per_month
    return (one.name, size(one.usage.bytes), "" if allowed is None else size(allowed), *_parts(one.usage))


def _connection_text(usage: ConnectionUsage) -> str:
    limits = usage.limits
    rows = [
        (f"bytes in {_month(usage.usage)} (UTC)", size(usage.usage.bytes), _size(limits.bytes_per_month)),
        ("listeners", str(usage.listeners), _count(limits.listeners)),
        ("senders", str(usage.senders), _count(limits.senders)),
        ("sessions", str(usage.sessions), _count(limits.sessions)),
    ]
    text = output.table((usage.name, "USED", "ALLOWED"), rows, right=frozenset({1, 2}))
    to_client, to_connector, joins = _parts(usage.usage)
    lines = [text, f"to clients {to_client}, to connectors {to_connector}, joins {joins}"]
    return "\n".join([*lines, *_earlier(usage.earlier)])


def _earlier(periods: Sequence[PeriodUsage]) -> list[str]:
    if not periods:
        return []
    rows = [(_month(one), size(one.bytes), *_parts(one)) for one in periods]
    heads = ("MONTH", "BYTES", "TO CLIENTS", "TO CONNECTORS", "JOINS")
    return ["", output.table(heads, rows, right=frozenset({1, 2, 3, 4}))]


def _parts(usage: PeriodUsage) -> tuple[str, str, str]:
    return size(usage.bytes_to_client), size(usage.bytes_to_connector), str(usage.joins)


def _count(limit: int | None) -> str:
    return "" if limit is None else str(limit)


def _size(limit: int | None) -> str:
    return "" if limit is None else size(limit)


def _month(usage: PeriodUsage) -> str:
    return utc_text(usage.begin)[: len("2026-01")]
