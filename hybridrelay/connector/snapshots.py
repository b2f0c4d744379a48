"""Makes snapshots of a connector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import trio

from ..audit.record import SinkProblem
from ..connectivity.counters import EndpointCounters
from ..connectivity.session_snapshot import session_snapshot
from ..connectivity.snapshot import (
    ConnectionSnapshot,
    EndpointSnapshot,
    StreamSnapshot,
    StreamState,
    UnappliedSnapshot,
)
from ..mux import Bridged, MemoryUse
from .policies import Policies, remedy_of
from .published import Published
from .relays import Relays
from .served_stream import ServedStream
from .sessions import Sessions
from .target_monitor import TargetMonitor

__all__ = ["connector_snapshot"]


def connector_snapshot(
    published: Sequence[Published],
    relays: Relays,
    sessions: Sessions,
    monitor: TargetMonitor,
    counters: EndpointCounters,
    *,
    max_sessions: int,
    max_streams: int,
    clock: Callable[[], float],
    policies: Policies,
    audit: tuple[SinkProblem, ...] = (),
) -> EndpointSnapshot:
    """Return a snapshot of a connector.

    Args:
        published: its hybrid connections.
        relays: its relays.
        sessions: its sessions and their streams.
        monitor: the health of its targets.
        counters: its counters.
        max_sessions, max_streams: how many are listed at most.
        clock: returns seconds since 1970.
        policies: the policy that is in force.
        audit: the sinks of its audit log that cannot be written, and the witnesses that do not confirm.
    """
    of_sessions = Counter(served.published.name for served in sessions)
    of_streams = Counter(stream.origin.published.name for stream in sessions.streams)
    memory = [served.session.memory_use() for served in sessions]
    total = sum(memory, MemoryUse())
    now, trio_now, monotonic_now = clock(), trio.current_time(), sessions.streams.clock()
    connections = tuple(
        ConnectionSnapshot(
            name=one.name,
            relays=relays.snapshots(one),
            sessions=of_sessions[one.name],
            streams=of_streams[one.name],
            target=str(one.target),
            target_health=monitor.health(one.target),
            target_failure=monitor.failure(one.target),
            update=None if one.changes is None else one.changes.update_status,
            credentials=tuple(credential.snapshot(now) for credential in one.credentials),
            unkept=None if one.changes is None else one.changes.keeper.unkept,
            denial="" if (denial := one.why_denied(policies.policy)) is None else denial.rule,
            denial_remedy="" if denial is None else remedy_of(denial),
        )
        for one in published
    )
    in_use = {relay.route.transport for one in connections for relay in one.relays if relay.route is not None} | {
        served.candidate.transport.name for served in sessions if served.session.is_attached
    }
    return EndpointSnapshot(
        connections=connections,
        sessions=tuple(
            session_snapshot(
                one.session,
                held,
                connection=one.published.name,
                peer=one.peer,
                serial=one.peer.serial,
                link=one.link,
                candidate=one.candidate,
                rendezvous=one.rendezvous,
                since=now - (trio_now - one.since),
            )
            for one, held in islice(zip(sessions, memory, strict=True), max_sessions)
        ),
        session_count=len(sessions),
        streams=tuple(
            _stream(one, now - (monotonic_now - one.events.began)) for one in islice(sessions.streams, max_streams)
        ),
        stream_count=len(sessions.streams),
        queued=total.queued,
        unread=total.unread,
        unacknowledged=total.unacknowledged,
        reserved=total.reserved,
        transports={name: name in in_use for name in sorted(relays.transports() | in_use)},
        counters=counters.copy(),
        unapplied=tuple(
            UnappliedSnapshot(
                code="reload-failed",
                detail="the policy or a deny list cannot be read, and its last valid version stays in force: "
                f"{error}",
                remedy=error.remedy or "correct the file: the connector reads it again by itself",
            )
            for error in policies.failures
        ),
        audit=audit,
    )


def _stream(served: ServedStream, since: float) -> StreamSnapshot:
    so_far = served.so_far
    moved = served.bytes_so_far or (0, 0)
    state = StreamState.CONNECTING
    if so_far is not None:
        half_closed = isinstance(so_far, Bridged) and (so_far.sent_all or so_far.received_all)
        state = StreamState.HALF_CLOSED if half_closed else StreamState.OPEN
    return StreamSnapshot(
        id=served.events.activity_id,
        connection=served.origin.published.name,
        session=served.origin.session,
        state=state,
        since=since,
        label=served.origin.peer.label,
        target=str(served.events.target),
        bytes_to_target=moved[0],
        bytes_to_client=moved[1],
    )
