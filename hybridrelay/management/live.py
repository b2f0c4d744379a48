"""Operations of the management API on a running relay: its listeners, senders and sessions, and the relay itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import attrs
import msgspec
import trio

from .._version import __version__
from ..relay import ConnectionSnapshot, Store
from ..relay.snapshot import Position
from ..relay.store.store import NotFound
from ..security import ManagementRole
from .calls import Call
from .condition import Names, part_of_scope, relay_problems
from .cursors import decode_cursor_untrusted, encode_cursor
from .live_values import (
    CertificateValue,
    ConnectionState,
    ConnectionStatePage,
    Dropped,
    ListenerDrain,
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
from .problem_kinds import Problem
from .problems import problem

__all__ = ["LIVE_ROWS"]

#: How many values are collected before other tasks of the relay may run: about a millisecond.
_AT_A_TIME = 100
#: How many names are read from the store at a time.
_NAMES_AT_A_TIME = 1000


class _Snapshot(Protocol):
    @property
    def connection(self) -> str: ...

    @property
    def key(self) -> str: ...


SnapshotT = TypeVar("SnapshotT", bound=_Snapshot)
ValueT = TypeVar("ValueT")


class _Fetch(Protocol[SnapshotT]):
    def __call__(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[SnapshotT]: ...


async def _page(
    call: Call, fetch: _Fetch[SnapshotT], make: Callable[[SnapshotT], ValueT]
) -> tuple[tuple[ValueT, ...], str | None]:
    """Return the page that the call asks for, and the cursor of the next page, if there is one."""
    query, scope = call.query_as(LivePageQuery), call.caller.scope
    name = call.params.get("name")
    if name is not None:
        await call.managed.read_store(lambda store: store.get(name))
    after: Position | None = (scope.prefix, "") if scope.prefix else None  # the names with this prefix follow here
    if query.cursor is not None:
        connection, key = decode_cursor_untrusted(query.cursor, parts=2)
        after = max(after or ("", ""), (connection, key))
    only = scope.only if name is None else name
    page: list[ValueT] = []
    while True:
        await trio.lowlevel.checkpoint()
        missing = query.limit - len(page)
        # At the end of the page, fetch one more, to know whether there is another page.
        more = fetch(min(missing + 1, _AT_A_TIME), after=after, connection=only)
        seen = [one for one in more if scope.covers(one.connection)]
        page += map(make, seen[:missing])
        if len(seen) > missing:
            if missing:
                after = seen[missing - 1].connection, seen[missing - 1].key
            assert after is not None
            return tuple(page), encode_cursor(*after)
        if not more or len(seen) < len(more):
            return tuple(page), None
        after = more[-1].connection, more[-1].key


async def _list_listeners(call: Call) -> ListenerPage:
    page, cursor = await _page(call, call.managed.relay.listeners, ListenerValue.of)
    return ListenerPage(value=page, next_cursor=cursor)


async def _list_senders(call: Call) -> SenderPage:
    page, cursor = await _page(call, call.managed.relay.senders, SenderValue.of)
    return SenderPage(value=page, next_cursor=cursor)


async def _list_sessions(call: Call) -> SessionPage:
    page, cursor = await _page(call, call.managed.relay.sessions, SessionValue.of)
    return SessionPage(value=page, next_cursor=cursor)


async def _drop(call: Call, drop: Callable[[str, str], bool], key: str) -> Dropped:
    """End a listener, sender or session. The answer says whether there was one."""
    await call.managed.read_store(lambda store: store.get(call.name))
    has_ended = drop(call.name, call.params[key])
    call.effect.is_unchanged = not has_ended
    return Dropped(ended=has_ended)


async def _drop_listener(call: Call) -> Dropped:
    return await _drop(call, call.managed.relay.drop_listener, "instance")


async def _set_draining(call: Call, *, on: bool) -> ListenerDrain:
    await call.managed.read_store(lambda store: store.get(call.name))
    changed = call.managed.relay.drain_listener(call.name, call.params["instance"], on=on)
    call.effect.is_unchanged = not changed
    return ListenerDrain(changed=changed)


async def _drain_listener(call: Call) -> ListenerDrain:
    return await _set_draining(call, on=True)


async def _undo_drain_listener(call: Call) -> ListenerDrain:
    return await _set_draining(call, on=False)


async def _drop_sender(call: Call) -> Dropped:
    return await _drop(call, call.managed.relay.drop_sender, "sender")


async def _drop_session(call: Call) -> Dropped:
    return await _drop(call, call.managed.relay.drop_session, "session")


async def _get_endpoint(call: Call) -> RelayEndpointValue:
    await trio.lowlevel.checkpoint()
    info = call.managed.info
    return RelayEndpointValue(pin=info.pin, ports=dict(info.public_ports))


async def _drain(call: Call) -> RelayValue:
    call.effect.is_unchanged = _is_draining(call)
    return await _changed_drain(call, is_done=call.managed.relay.drain())


async def _undo_drain(call: Call) -> RelayValue:
    call.effect.is_unchanged = not _is_draining(call)
    return await _changed_drain(call, is_done=call.managed.relay.undo_drain())


def _is_draining(call: Call) -> bool:
    return call.managed.relay.snapshot().draining_since is not None


async def _changed_drain(call: Call, *, is_done: bool) -> RelayValue:
    if not is_done:
        detail = "the relay is starting or stopping, so it cannot be drained"
        raise problem(Problem.UNAVAILABLE, detail, remedy="send the request again later")
    return await _get_relay(call)


async def _disabled_by_name(call: Call, *, after: str, limit: int) -> Mapping[str, bool]:
    """Return the next `limit` hybrid connections that the caller may see, and whether each is disabled."""
    scope = call.caller.scope

    def read(store: Store) -> Mapping[str, bool]:
        if scope.only is None:
            return store.disabled_by_name(after=after, prefix=scope.prefix, limit=limit)
        try:
            return {scope.only: store.get(scope.only).disabled} if scope.only > after else {}
        except NotFound:
            return {}

    return await call.managed.read_store(read)


async def _list_states(call: Call) -> ConnectionStatePage:
    query, relay = call.query_as(LivePageQuery), call.managed.relay
    after = "" if query.cursor is None else decode_cursor_untrusted(query.cursor, parts=1)[0]
    # Fetch one more than requested, to know whether there is another page.
    found = list((await _disabled_by_name(call, after=after, limit=query.limit + 1)).items())
    page = found[: query.limit]
    values: list[ConnectionState] = []
    for number, (name, disabled) in enumerate(page):
        if number % _AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
        values.append(ConnectionState.of(name, relay.connection(name), disabled=disabled))
    cursor = encode_cursor(page[-1][0]) if len(found) > len(page) else None
    return ConnectionStatePage(value=tuple(values), next_cursor=cursor)


async def _get_relay(call: Call) -> RelayValue:
    info, relay, scope = call.managed.info, call.managed.relay, call.caller.scope
    count = 0
    unserved, unhealthy = Names(), Names()
    total = ConnectionSnapshot()
    after, is_last = "", False
    while not is_last:
        names = await _disabled_by_name(call, after=after, limit=_NAMES_AT_A_TIME)
        is_last = len(names) < _NAMES_AT_A_TIME
        for number, (name, disabled) in enumerate(names.items()):
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
            if not scope.is_everything:
                total += relay.connection(name)
            if relay.listener_count(name) == 0 and not disabled:
                unserved.add(name)
            elif relay.has_only_unhealthy_listeners(name):
                unhealthy.add(name)
            after = name
        count += len(names)
    every_claim = await call.managed.read_store(lambda store: store.open_claims())
    claims = [claim for claim in every_claim if call.caller.sees(claim.connection)]
    whole = relay.snapshot(sees=call.caller.sees)
    if call.managed.audit is not None and call.managed.audit.problem is not None:
        whole = attrs.evolve(whole, file_problems=(*whole.file_problems, call.managed.audit.problem))
    if scope.is_everything:
        total = ConnectionSnapshot(whole.listeners, whole.senders, whole.sessions)
    value = RelayValue(
        version=__version__,
        problems=relay_problems(
            part_of_scope(whole, scope),
            unserved,
            call.managed.clock(),
            unhealthy=unhealthy,
            claims=claims,
            others=call.managed.problems() if scope.is_everything else (),
        ),
        draining_since=whole.draining_since,
        pin=info.pin,
        connection_count=count,
        listener_count=total.listeners,
        sender_count=total.senders,
        session_count=total.sessions,
        ports=None,
        certificates=None,
        unauthenticated=None,
        pairs=None,
        control_channels=None,
    )
    if not scope.is_everything:
        return value
    return msgspec.structs.replace(
        value,
        ports={name: tuple(map(str, bindings)) for name, bindings in info.bound.items() if bindings},
        certificates=tuple(map(CertificateValue.of, whole.certificates)),
        unauthenticated=Places.of(whole.unauthenticated),
        pairs=Places.of(whole.pairs),
        control_channels=Places.of(whole.control_channels),
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
        id="listConnectionStates",
        method="GET",
        path="/v1/connectionStates",
        summary="List the current state of the hybrid connections that the caller may see: listeners, senders, "
        "sessions and bytes at this relay, and whether they are disabled.",
        role=ManagementRole.VIEWER,
        handler=_list_states,
        filters=True,
        query=LivePageQuery,
        answer=ConnectionStatePage,
    ),
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
        id="drainListener",
        method="POST",
        path=f"{_CONNECTION}/listeners/{{instance}}/drain",
        summary="Offer no new sessions to a connector; those that it has continue.",
        role=ManagementRole.OPERATOR,
        handler=_drain_listener,
        answer=ListenerDrain,
    ),
    Operation(
        id="undoDrainListener",
        method="DELETE",
        path=f"{_CONNECTION}/listeners/{{instance}}/drain",
        summary="Offer new sessions to a connector again.",
        role=ManagementRole.OPERATOR,
        handler=_undo_drain_listener,
        answer=ListenerDrain,
    ),
    Operation(
        id="dropSender",
        method="DELETE",
        path=f"{_CONNECTION}/senders/{{sender}}",
        summary="End the control channel of a client, which opens another one when it needs one.",
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
        "taken. A caller with a scope gets what concerns this scope.",
        role=ManagementRole.VIEWER,
        handler=_get_relay,
        filters=True,
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
        # Every caller may see this: it is contained in the connection strings of all hybrid connections.
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
