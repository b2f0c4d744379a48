"""Makes snapshots of a client."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Protocol

import trio

from ..connectivity.activity import session_activity_id, stream_activity_id
from ..connectivity.counters import EndpointCounters
from ..connectivity.session_snapshot import session_snapshot
from ..connectivity.snapshot import (
    ConnectionSnapshot,
    CredentialSnapshot,
    EndpointSnapshot,
    FailureSnapshot,
    StreamSnapshot,
    StreamState,
    UpdateStatus,
)
from ..connectivity.string_keeper import StringKeeper
from ..mux import FlowProgress, MemoryUse
from .opening import SessionOpener
from .relays.relays import Relays
from .requests import StreamRequest, StreamRequests
from .sessions import Sessions

__all__ = ["client_snapshot"]


class _Client(Protocol):
    keeper: StringKeeper

    @property
    def listening(self) -> tuple[str, ...]: ...

    @property
    def left_out(self) -> tuple[str, ...]: ...

    @property
    def connection(self) -> str: ...

    @property
    def requests(self) -> StreamRequests: ...

    @property
    def update_status(self) -> UpdateStatus | None: ...

    def credentials(self) -> tuple[CredentialSnapshot, ...]: ...


def client_snapshot(
    client: _Client,
    relays: Relays,
    sessions: Sessions,
    opener: SessionOpener,
    counters: EndpointCounters,
    *,
    max_sessions: int,
    max_streams: int,
    clock: Callable[[], float],
) -> EndpointSnapshot:
    """Return a snapshot of a client.

    Args:
        client: the client.
        relays: its relays.
        sessions: its sessions.
        opener: opens the sessions.
        counters: its counters. They count a stream only when it ends, so open streams are added here.
        max_sessions, max_streams: how many are listed at most.
        clock: returns seconds since 1970.
    """
    # The difference between seconds since 1970 and Trio's clock.
    offset = clock() - trio.current_time()
    name, relay_snapshots = client.connection, tuple(relay.snapshot() for relay in relays.all)
    live = list(sessions)
    memory = [one.session.memory_use() for one in live]
    total = sum(memory, MemoryUse())
    in_use = {relay.route.transport for relay in relay_snapshots if relay.route is not None}
    in_use |= {one.channel.candidate.transport.name for one in live if one.session.is_attached}
    transports = {transport for relay in relays.all for transport in relay.link.transports} | in_use
    connection = ConnectionSnapshot(
        name=name,
        relays=relay_snapshots,
        sessions=len(live),
        streams=len(client.requests),
        listening=client.listening,
        left_out=client.left_out,
        is_connected=opener.open is not None,
        waiting=opener.waiting,
        failure=None if opener.failure is None else FailureSnapshot.of(opener.failure[0], offset + opener.failure[1]),
        update=client.update_status,
        credentials=client.credentials(),
        unkept=client.keeper.unkept,
    )
    counted = counters.copy()
    for request in client.requests:
        if request.was_accepted:
            counted.stream_opened(name)
    return EndpointSnapshot(
        connections=(connection,),
        sessions=tuple(
            session_snapshot(
                one.session,
                held,
                connection=name,
                peer=one.channel.peer.identity,
                serial=one.serial,
                link=one.channel.relay.link,
                candidate=one.channel.candidate,
                rendezvous=one.channel.rendezvous,
                since=offset + one.since,
                instance=one.channel.peer.instance,
            )
            for one, held in islice(zip(live, memory, strict=True), max_sessions)
        ),
        session_count=len(live),
        streams=tuple(_stream(one, name, sessions, offset) for one in islice(client.requests, max_streams)),
        stream_count=len(client.requests),
        queued=total.queued,
        unread=total.unread,
        unacknowledged=total.unacknowledged,
        reserved=total.reserved,
        transports={name: name in in_use for name in sorted(transports)},
        counters=counted,
    )


def _stream(request: StreamRequest, name: str, sessions: Sessions, offset: float) -> StreamSnapshot:
    stream, session, sent, received = request.stream, "", 0, 0
    state = StreamState.WAITING
    if stream is not None:
        session = session_activity_id(stream.session_id, sessions.serial_of(stream.session_id))
        so_far = stream.so_far()
        is_half_closed = False
        if isinstance(so_far, FlowProgress):
            sent, received = so_far.bytes_sent, so_far.bytes_received
        else:
            sent, received, is_half_closed = so_far.sent, so_far.received, so_far.is_half_closed
        state = StreamState.CONNECTING
        if stream.was_accepted:
            state = StreamState.HALF_CLOSED if is_half_closed else StreamState.OPEN
    return StreamSnapshot(
        id="" if stream is None else stream_activity_id(session, stream.stream_id),
        connection=name,
        session=session,
        state=state,
        since=offset + request.began,
        application=request.application,
        bytes_to_target=sent,
        bytes_to_client=received,
    )
