"""Snapshots for tests."""

from __future__ import annotations

from typing import Any

from hybridrelay.connectivity.counters import EndpointCounters
from hybridrelay.connectivity.snapshot import (
    ConnectionSnapshot,
    EndpointSnapshot,
    FailureSnapshot,
    RelaySnapshot,
    RelayState,
    RouteSnapshot,
    SessionSnapshot,
    SessionState,
    StreamSnapshot,
    StreamState,
    TargetCheck,
)

ROUTE = RouteSnapshot(name="tcp", transport="tcp", port=9352)
DOWN = FailureSnapshot(
    reason="relay-unreachable", detail="connection refused", remedy="check that the relay runs", at=1.0
)


def relay(host: str = "a.example", **changes: Any) -> RelaySnapshot:
    """A relay at which a hybrid connection is registered."""
    fields = {"host": host, "state": RelayState.REGISTERED, "instance": "1" * 32, "since": 5.0, "route": ROUTE}
    return RelaySnapshot(**{**fields, **changes})


def failed(host: str = "a.example", failure: FailureSnapshot | None = DOWN) -> RelaySnapshot:
    """A relay that cannot be used."""
    return relay(host, state=RelayState.FAILED, since=None, route=None, failure=failure)


def connection(name: str = "db", *relays: RelaySnapshot, **changes: Any) -> ConnectionSnapshot:
    """A hybrid connection."""
    fields = {"name": name, "relays": relays or (relay(),), "sessions": 1, "streams": 2}
    return ConnectionSnapshot(**{**fields, **changes})


def session(number: int = 1, **changes: Any) -> SessionSnapshot:
    """A session."""
    fields = {
        "id": f"{number:016x}",
        "connection": "db",
        "state": SessionState.OPEN,
        "label": "shop",
        "serial": "0A",
        "instance": "",
        "relay": "a.example",
        "route": ROUTE,
        "rendezvous": "4" * 32,
        "since": float(number),
        "resumptions": 0,
        "streams": 1,
        "bytes_to_target": 5,
        "bytes_to_client": 7,
        "queued": 0,
        "unread": 0,
        "unacknowledged": 0,
        "reserved": 16384,
    }
    return SessionSnapshot(**{**fields, **changes})


def stream(number: int = 1, **changes: Any) -> StreamSnapshot:
    """A stream."""
    fields = {
        "id": f"{1:016x}-{number}",
        "connection": "db",
        "session": f"{1:016x}",
        "state": StreamState.OPEN,
        "since": float(number),
        "label": "shop",
        "target": "db.internal:5432",
    }
    return StreamSnapshot(**{**fields, **changes})


def endpoint(*connections: ConnectionSnapshot, **changes: Any) -> EndpointSnapshot:
    """A connector or client."""
    fields: dict[str, Any] = {
        "connections": connections or (connection(),),
        "sessions": (session(),),
        "streams": (stream(),),
        "queued": 1,
        "unread": 2,
        "unacknowledged": 3,
        "reserved": 4,
        "transports": {"tcp": True, "websocket": False},
        "counters": EndpointCounters(),
        **changes,
    }
    fields.setdefault("session_count", len(fields["sessions"]))
    fields.setdefault("stream_count", len(fields["streams"]))
    return EndpointSnapshot(**fields)


class FakeSource:
    """A program whose status is what the test wants."""

    def __init__(self, snapshot: EndpointSnapshot | None = None, role: Any = "connector") -> None:
        self.role = role
        self.shown = endpoint() if snapshot is None else snapshot
        self.targets: tuple[TargetCheck, ...] = ()
        self.limits: list[tuple[int, int]] = []

    def snapshot(self, *, max_sessions: int, max_streams: int) -> EndpointSnapshot:
        self.limits.append((max_sessions, max_streams))
        return self.shown

    async def check_targets(self) -> tuple[TargetCheck, ...]:
        return self.targets
