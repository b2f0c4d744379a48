"""Formats the status of a connector or forward as tables, for ``hybridrelay status --from``. Pure."""

from __future__ import annotations

from ..monitoring.values import ConnectionStatus, RelayStatus, RouteStatus, SessionStatus, StatusValue, StreamStatus
from .status_text import duration, section, size

__all__ = ["endpoint_text"]


def endpoint_text(status: StatusValue, now: float) -> str:
    """Return the text: problems first, then tables. `now` is in seconds since 1970."""
    state = "stopping" if status.stopping else f"running for {duration(now - status.started_at)}"
    parts = [f"{status.role} {state}, version {status.version}"]
    if status.problems:
        parts.append("\n".join(f"! {one.detail}\n    what to do: {one.remedy}" for one in status.problems))
    is_connector = status.role == "connector"
    parts += [
        section(
            "hybrid connections",
            ("NAME", *(("TARGET", "HEALTH") if is_connector else ("LISTENING",)), "SESSIONS", "STREAMS", "WAITING"),
            (
                (
                    one.name,
                    *((one.target, one.target_health) if is_connector else (" ".join(one.listening) or "-",)),
                    str(one.sessions),
                    str(one.streams),
                    str(one.waiting),
                )
                for one in status.hybrid_connections
            ),
            right=frozenset({3, 4, 5} if is_connector else {2, 3, 4}),
        ),
        section(
            "relays",
            ("CONNECTION", "RELAY", "STATE", "FOR", "ROUTE", "LAST FAILURE"),
            (_relay(one, relay, now) for one in status.hybrid_connections for relay in one.relays),
            right=frozenset({3}),
        ),
        section(
            "sessions",
            ("CONNECTION", "ID", "LABEL", "STATE", "RELAY", "ROUTE", "FOR", "RESUMED", "STREAMS", "TO TARGET",
             "TO CLIENT", "QUEUED", "UNREAD", "UNACKNOWLEDGED"),
            (_session(one, now) for one in status.sessions),
            right=frozenset(range(6, 14)),
            total=status.session_count,
        ),
        section(
            "streams",
            ("CONNECTION", "ID", *(("LABEL", "TARGET") if is_connector else ("APPLICATION",)), "STATE", "FOR",
             "TO TARGET", "TO CLIENT"),
            (_stream(one, now, is_connector=is_connector) for one in status.streams),
            right=frozenset(range(5, 8) if is_connector else range(4, 7)),
            total=status.stream_count,
        ),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _relay(connection: ConnectionStatus, relay: RelayStatus, now: float) -> tuple[str, ...]:
    failure = ""
    if relay.failure is not None:
        ago = "" if relay.failure.at is None else f" {duration(now - relay.failure.at)} ago"
        failure = f"{relay.failure.reason}{ago}"
    return (
        connection.name,
        relay.host,
        relay.state.value,
        "-" if relay.since is None else duration(now - relay.since),
        "-" if relay.route is None else _route(relay.route),
        failure,
    )


def _route(route: RouteStatus) -> str:
    port = f" {route.port}" if route.port else ""
    return f"{route.name}{port}" + (f" via {route.proxy}" if route.proxy else "")


def _session(one: SessionStatus, now: float) -> tuple[str, ...]:
    return (
        one.connection,
        one.id,
        one.label,
        one.state.value,
        one.relay,
        _route(one.route),
        duration(now - one.since),
        str(one.resumptions),
        str(one.streams),
        size(one.bytes_to_target),
        size(one.bytes_to_client),
        size(one.queued),
        size(one.unread),
        size(one.unacknowledged),
    )


def _stream(one: StreamStatus, now: float, *, is_connector: bool) -> tuple[str, ...]:
    return (
        one.connection,
        one.id or "-",
        *((one.label, one.target) if is_connector else (one.application or "-",)),
        one.state.value,
        duration(now - one.since),
        size(one.bytes_to_target),
        size(one.bytes_to_client),
    )
