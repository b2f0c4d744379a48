"""Operations of the management API on a running relay: its listeners, senders and sessions, and the relay itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec
import trio

from .._version import __version__
from ..relay.snapshot import Position
from ..security import ManagementRole
from .calls import Call
from .condition import MAX_UNSERVED, relay_problems
from .cursors import decode_cursor_untrusted, encode_cursor
from .live_values import (
    CertificateValue,
    Dropped,
    ListenerPage,
    ListenerValue,
    LivePageQuery,
    Places,
    RelayEndpointValue,
    RelayValue,
    SenderPage,
    SenderValue,
    SessionPage,
    SessionValue,
)
from .operations import Operation
from .problems import Problem, problem

__all__ = ["LIVE_ROWS"]

#: How many values are collected before other tasks of the relay may run: about a millisecond's work.
_AT_A_TIME = 100


class _Snapshot(Protocol):
    @property
    def connection(self) -> str: ...

    @property
    def key(self) -> str: ...


SnapshotT = TypeVar("SnapshotT", bound=_Snapshot)


class _Fetch(Protocol[SnapshotT]):
    def __call__(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[SnapshotT]: ...


async def _page(call: Call, fetch: _Fetch[SnapshotT]) -> tuple[list[SnapshotT], str | None]:
    """Return the page that the call asks for, and the cursor of the next page, if there is one."""
    query, scope = call.query_as(LivePageQuery), call.caller.scope
    name = call.params.get("name")
    if name is not None:
        await call.managed.read_store(lambda store: store.get(name))
    after: Position | None = (scope.prefix, "") if scope.prefix else None  # names with this prefix are neighbours
    if query.cursor is not None:
        connection, key = decode_cursor_untrusted(query.cursor, parts=2)
        after = max(after or ("", ""), (connection, key))
    found: list[SnapshotT] = []
    # Fetch one more than requested, to know whether there is another page.
    while (missing := query.limit + 1 - len(found)) > 0:
        more = fetch(min(missing, _AT_A_TIME), after=after, connection=scope.only if name is None else name)
        found += (one for one in more if scope.covers(one.connection))
        if not more or not scope.covers(more[-1].connection):
            break
        after = more[-1].connection, more[-1].key
        await trio.lowlevel.checkpoint()
    page = found[: query.limit]
    cursor = encode_cursor(page[-1].connection, page[-1].key) if len(found) > len(page) else None
    return page, cursor


async def _list_listeners(call: Call) -> ListenerPage:
    page, cursor = await _page(call, call.managed.relay.listeners)
    return ListenerPage(value=tuple(map(ListenerValue.of, page)), next_cursor=cursor)


async def _list_senders(call: Call) -> SenderPage:
    page, cursor = await _page(call, call.managed.relay.senders)
    return SenderPage(value=tuple(map(SenderValue.of, page)), next_cursor=cursor)


async def _list_sessions(call: Call) -> SessionPage:
    page, cursor = await _page(call, call.managed.relay.sessions)
    return SessionPage(value=tuple(map(SessionValue.of, page)), next_cursor=cursor)


async def _drop(call: Call, drop: Callable[[str, str], bool], key: str) -> Dropped:
    """End a listener, sender or session. The answer says whether there was one."""
    await call.managed.read_store(lambda store: store.get(call.name))
    return Dropped(ended=drop(call.name, call.params[key]))


async def _drop_listener(call: Call) -> Dropped:
    return await _drop(call, call.managed.relay.drop_listener, "instance")


async def _drop_sender(call: Call) -> Dropped:
    return await _drop(call, call.managed.relay.drop_sender, "sender")


async def _drop_session(call: Call) -> Dropped:
    return await _drop(call, call.managed.relay.drop_session, "session")


async def _get_endpoint(call: Call) -> RelayEndpointValue:
    await trio.lowlevel.checkpoint()
    info = call.managed.info
    return RelayEndpointValue(pin=info.pin, ports=dict(info.public_ports))


async def _drain(call: Call) -> RelayValue:
    return await _changed_drain(call, is_done=call.managed.relay.drain())


async def _undo_drain(call: Call) -> RelayValue:
    return await _changed_drain(call, is_done=call.managed.relay.undo_drain())


async def _changed_drain(call: Call, *, is_done: bool) -> RelayValue:
    if not is_done:
        detail = "the relay is starting or stopping, so it cannot be drained"
        raise problem(Problem.UNAVAILABLE, detail, remedy="send the request again later")
    return await _get_relay(call)


async def _get_relay(call: Call) -> RelayValue:
    info, relay = call.managed.info, call.managed.relay
    disabled = await call.managed.read_store(lambda store: store.disabled_by_name())
    unserved: list[str] = []
    unserved_count = 0
    for number, name in enumerate(disabled):
        if number % _AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
        if relay.listener_count(name) == 0 and not disabled[name]:
            unserved_count += 1
            if len(unserved) < MAX_UNSERVED:
                unserved.append(name)
    snapshot = relay.snapshot()
    return RelayValue(
        version=__version__,
        problems=relay_problems(snapshot, unserved, unserved_count, call.managed.clock()),
        draining_since=snapshot.draining_since,
        pin=info.pin,
        ports={name: tuple(map(str, bindings)) for name, bindings in info.bound.items() if bindings},
        certificates=tuple(map(CertificateValue.of, snapshot.certificates)),
        connection_count=len(disabled),
        listener_count=snapshot.listeners,
        sender_count=snapshot.senders,
        session_count=snapshot.sessions,
        unauthenticated=Places.of(snapshot.unauthenticated),
        pairs=Places.of(snapshot.pairs),
        control_channels=Places.of(snapshot.control_channels),
    )


_CONNECTION = "/v1/hybridConnections/{name}"


def _list_rows(
    what: str, plural: str, handler: Callable[[Call], Awaitable[msgspec.Struct]], answer: type[msgspec.Struct]
) -> tuple[Operation[Call], ...]:
    """Make two operations: the list for one hybrid connection, and the list for all."""
    return (
        Operation(
            id=f"list{what}s",
            method="GET",
            path=f"{_CONNECTION}/{what.lower()}s",
            summary=f"List {plural} of a hybrid connection at this relay.",
            role=ManagementRole.VIEWER,
            handler=handler,
            query=LivePageQuery,
            answer=answer,
        ),
        Operation(
            id=f"listAll{what}s",
            method="GET",
            path=f"/v1/{what.lower()}s",
            summary=f"List {plural} of all hybrid connections at this relay that the caller may see.",
            role=ManagementRole.VIEWER,
            handler=handler,
            filters=True,
            query=LivePageQuery,
            answer=answer,
        ),
    )


#: The operations of this module, a part of the table of all operations.
LIVE_ROWS: tuple[Operation[Call], ...] = (
    *_list_rows("Listener", "the connectors that are registered", _list_listeners, ListenerPage),
    *_list_rows("Sender", "the control channels of clients that may join", _list_senders, SenderPage),
    *_list_rows("Session", "the pairs of data channels that are joined", _list_sessions, SessionPage),
    Operation(
        id="dropListener",
        method="DELETE",
        path=f"{_CONNECTION}/listeners/{{instance}}",
        summary="End the registration of a connector, which may register again after 30 seconds.",
        role=ManagementRole.OPERATOR,
        handler=_drop_listener,
        answer=Dropped,
    ),
    Operation(
        id="dropSender",
        method="DELETE",
        path=f"{_CONNECTION}/senders/{{sender}}",
        summary="End the control channel of a client, which opens another one when it needs it.",
        role=ManagementRole.OPERATOR,
        handler=_drop_sender,
        answer=Dropped,
    ),
    Operation(
        id="dropSession",
        method="DELETE",
        path=f"{_CONNECTION}/sessions/{{session}}",
        summary="End a pair of data channels; the client resumes the session over another one if it can.",
        role=ManagementRole.OPERATOR,
        handler=_drop_session,
        answer=Dropped,
    ),
    Operation(
        id="getRelay",
        method="GET",
        path="/v1/relay",
        summary="Get this relay: its problems, version, pin, ports and certificates, and how many of its places are "
        "taken.",
        role=ManagementRole.VIEWER,
        handler=_get_relay,
        answer=RelayValue,
    ),
    Operation(
        id="getRelayEndpoint",
        method="GET",
        path="/v1/relay/endpoint",
        summary="Get what connection strings contain about this relay: its pin, and ports that are not the defaults.",
        role=ManagementRole.VIEWER,
        handler=_get_endpoint,
        answer=RelayEndpointValue,
        # It is the same for all hybrid connections, and in each of their connection strings.
        filters=True,
    ),
    Operation(
        id="drainRelay",
        method="POST",
        path="/v1/relay/drain",
        summary="Accept no new registrations and joins; sessions continue, and move to other relays if they can.",
        role=ManagementRole.OPERATOR,
        handler=_drain,
        answer=RelayValue,
    ),
    Operation(
        id="undoDrainRelay",
        method="DELETE",
        path="/v1/relay/drain",
        summary="Accept registrations and joins again.",
        role=ManagementRole.OPERATOR,
        handler=_undo_drain,
        answer=RelayValue,
    ),
)
