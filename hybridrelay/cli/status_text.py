"""Formats the state of a relay as tables, for ``hybridrelay status``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..management import RelayStatus
from ..management.live_values import ListenerValue, SenderValue
from . import output

__all__ = ["duration", "section", "size", "status_text"]

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def status_text(status: RelayStatus, now: float) -> str:
    """Return the text: problems first, then tables. `now` is in seconds since 1970."""
    relay = status.relay
    parts = [_heading(status)]
    if relay.problems:
        parts.append("\n".join(f"! {one.detail}\n    what to do: {one.remedy}" for one in relay.problems))
    parts += [
        section(
            "hybrid connections",
            ("NAME", "LISTENERS", "SENDERS", "SESSIONS", "TO CLIENTS", "TO CONNECTORS"),
            (
                (
                    one.name + (" (disabled)" if one.disabled else ""),
                    str(one.listener_count),
                    str(one.sender_count),
                    str(one.session_count),
                    size(one.bytes_to_client),
                    size(one.bytes_to_connector),
                )
                for one in status.connections
            ),
            right=frozenset({1, 2, 3, 4, 5}),
        ),
        section("listeners", ("CONNECTION", "INSTANCE", *_PEER), (_peer(one, now) for one in status.listeners)),
        section("senders", ("CONNECTION", "INSTANCE", *_PEER), (_peer(one, now) for one in status.senders)),
        section(
            "sessions",
            ("CONNECTION", "ID", "FROM", "TRANSPORT", "TO", "TRANSPORT", "FOR", "TO CLIENT", "TO CONNECTOR"),
            (
                (
                    one.connection,
                    one.id,
                    one.sender.address,
                    one.sender.transport,
                    one.listener.address,
                    one.listener.transport,
                    duration(now - one.since),
                    size(one.bytes_to_client),
                    size(one.bytes_to_connector),
                )
                for one in status.sessions
            ),
            right=frozenset({6, 7, 8}),
        ),
    ]
    return "\n\n".join(parts)


_PEER = ("ADDRESS", "TRANSPORT", "SOFTWARE", "KEY", "FOR", "SESSIONS", "TO CLIENTS", "TO CONNECTORS")
_PEER_RIGHT = frozenset({6, 7, 8, 9})


def _heading(status: RelayStatus) -> str:
    relay = status.relay
    places = ", ".join(
        f"{what} {one.used}/{one.total}"
        for what, one in (
            ("pairs", relay.pairs),
            ("control channels", relay.control_channels),
            ("unauthenticated", relay.unauthenticated),
        )
    )
    ports = " ".join(f"{name}={','.join(bindings)}" for name, bindings in relay.ports.items())
    state = "draining" if relay.draining_since is not None else "running"
    return f"relay {state}, version {relay.version}, pin {relay.pin}\nports: {ports}\nin use: {places}"


def section(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: frozenset[int] = frozenset(),
    total: int | None = None,
) -> str:
    """Format a table with its title and the number of its rows.

    Args:
        title: of the table.
        header: the names of the columns.
        rows: the cells.
        right: the columns that are aligned to the right; none: those of a peer.
        total: how many rows there would be, if some are left out.
    """
    found = list(rows)
    right = right or _PEER_RIGHT
    count = f"{title}: {len(found) if total is None else total}"
    if total is not None and total > len(found):
        count += f", of which the oldest {len(found)} are shown"
    return count + (f"\n{output.table(header, found, right=right)}" if found else "")


def _peer(one: ListenerValue | SenderValue, now: float) -> tuple[str, ...]:
    return (
        one.connection,
        one.instance,
        one.address,
        one.transport,
        one.software,
        f"{one.rule}/{one.slot}",
        duration(now - one.since),
        str(one.sessions),
        size(one.bytes_to_client),
        size(one.bytes_to_connector),
    )


def size(count: int) -> str:
    """Format a number of bytes with three digits, such as ``12.3 MB``, in powers of 1000."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    if unit == 0:
        return f"{count} B"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Format a duration in its two largest units, such as ``3 d 4 h`` or ``12 min 5 s``."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
