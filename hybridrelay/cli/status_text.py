"""Formats the state of a relay as tables, for ``hybridrelay status``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..management import RelayStatus
from ..management.live_values import ListenerValue, SenderValue
from . import output

__all__ = ["duration", "section", "size", "status_parts", "status_text"]

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def status_text(status: RelayStatus, now: float) -> str:
    """Return the text of `status_parts`."""
    return "".join(status_parts(status, now))


def status_parts(status: RelayStatus, now: float) -> Iterator[str]:
    """Format the state in parts of many lines each: problems first, then tables. `now` is in seconds since 1970."""
    yield _heading(status)
    if status.relay.problems:
        problems = (f"! {one.detail}\n    what to do: {one.remedy}" for one in status.relay.problems)
        yield "\n\n" + "\n".join(problems)
    yield "\n\n"
    yield from section_parts(
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
    )
    yield "\n\n"
    yield from section_parts(
        "listeners",
        (*_PEER, "DRAINING", "TARGET", "CHOSEN"),
        ((*_peer(one, now), *_choices(one)) for one in status.listeners),
        right=_PEER_RIGHT,
    )
    yield "\n\n"
    yield from section_parts("senders", _PEER, (_peer(one, now) for one in status.senders), right=_PEER_RIGHT)
    yield "\n\n"
    yield from section_parts(
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
    )


_PEER = (
    "CONNECTION", "INSTANCE", "ADDRESS", "TRANSPORT", "SOFTWARE", "KEY", "FOR", "SESSIONS", "TO CLIENTS",
    "TO CONNECTORS",
)  # fmt: skip
_PEER_RIGHT = frozenset({6, 7, 8, 9})


def _heading(status: RelayStatus) -> str:
    relay = status.relay
    state = "draining" if relay.draining_since is not None else "running"
    lines = [f"relay {state}, version {relay.version}, pin {relay.pin}"]
    if relay.ports is not None:  # otherwise the caller's scope excludes the relay as a whole
        lines.append("ports: " + " ".join(f"{name}={','.join(bindings)}" for name, bindings in relay.ports.items()))
    places = (
        ("pairs", relay.pairs),
        ("control channels", relay.control_channels),
        ("unauthenticated", relay.unauthenticated),
    )
    used = ", ".join(f"{what} {one.used}/{one.total}" for what, one in places if one is not None)
    if used:
        lines.append(f"in use: {used}")
    return "\n".join(lines)


def section(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: frozenset[int],
    total: int | None = None,
) -> str:
    """Format a table with its title and the number of its rows; see `section_parts`."""
    return "".join(section_parts(title, header, rows, right=right, total=total))


def section_parts(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: frozenset[int],
    total: int | None = None,
) -> Iterator[str]:
    """Format a table with its title and the number of its rows, in parts of many lines each.

    Args:
        title: the title of the table.
        header: the names of the columns.
        rows: the cells.
        right: the columns that are aligned to the right.
        total: the number of all rows, if some are omitted.
    """
    shown = 0

    def counted() -> Iterator[Sequence[str]]:
        nonlocal shown
        for row in rows:
            shown += 1
            yield row

    # All rows are counted before the first part is returned.
    parts = output.table_parts(header, counted(), right=right)
    first = next(parts)
    count = f"{title}: {shown if total is None else total}"
    if total is not None and total > shown:
        count += f", of which the oldest {shown} are shown"
    yield count
    if shown:
        yield f"\n{first}"
        yield from parts


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


def _choices(one: ListenerValue) -> tuple[str, ...]:
    return "yes" if one.draining else "no", one.target, one.choices or "-"


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
