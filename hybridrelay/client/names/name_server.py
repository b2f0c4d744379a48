"""A name server for published names: their local addresses, over UDP and TCP (RFC 1035, RFC 7766).

It knows no other names, and queries no other server. The rules:

1. A published name has the addresses on which this program listens for it. Queries for records of other types, such
   as AAAA, get an empty answer, so that resolvers do not look elsewhere.
2. A name below a published name does not exist (NXDOMAIN).
3. Queries for all other names are refused (REFUSED), so that resolvers ask other servers. So are queries of a class
   other than IN. Queries with an opcode other than QUERY are answered with NOTIMP.
4. Messages that are not queries are ignored. Over TCP, the connection is closed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

import trio

from ..._accepting import serve_listeners
from ..._unexpected_failure import unexpected_failure
from ...connectivity.endpoint import format_address
from ...errors import ConfigurationError
from ...events.fronts import NameServerListening, NameServerOpenToOthers
from ...events.stream import EventStream
from ...security.names import is_loopback
from ...streams import receive_exactly
from ..ingress.ports import OpenPort, open_port
from .dns import MAX_ADDRESSES, MAX_MESSAGE, NotAQuery, ResponseCode, make_answer, make_failure, parse_query_untrusted

__all__ = ["FindAddresses", "NameServer", "answer_untrusted", "open_name_server"]

#: Gets names in lower case, and returns the addresses of those that are published. It is called once for a question,
#: because a name may have more than a hundred parents.
FindAddresses: TypeAlias = Callable[[AbstractSet[str]], Mapping[str, Sequence[IPv4Address | IPv6Address]]]

#: How long an answer may be cached (seconds). Short, because names and addresses change when files change.
TTL_SECONDS: Final = 5
#: How long a connection may be idle, and how long a message may take to arrive or to be accepted (seconds).
IDLE_SECONDS: Final = 10.0
#: How many connections there may be. If there are more, the oldest is closed.
MAX_CONNECTIONS: Final = 64
#: How many queries are answered on one connection.
_MAX_QUERIES: Final = 1000
#: How many times to look for a port that is free for both UDP and TCP.
_ATTEMPTS: Final = 20


def answer_untrusted(data: bytes, find: FindAddresses) -> bytes | None:
    """Return the answer to a message; None if it is ignored. Pure, and raises nothing."""
    try:
        query = parse_query_untrusted(data)
    except NotAQuery:
        return None
    if not query.is_standard:
        return make_failure(query, ResponseCode.NOT_IMPLEMENTED)
    if query.is_internet:
        published = find(_with_parents(query.name))
        if query.name in published:
            return make_answer(query, published[query.name][:MAX_ADDRESSES], ttl=TTL_SECONDS)
        if published:
            return make_failure(query, ResponseCode.NAME_ERROR)
    return make_failure(query, ResponseCode.REFUSED)


def _with_parents(name: str) -> AbstractSet[str]:
    labels = name.split(".")
    return {".".join(labels[number:]) for number in range(len(labels))}


async def open_name_server(address: tuple[str, int], find: FindAddresses, *, events: EventStream) -> NameServer:
    """Listen on a local address with UDP and TCP. The caller closes the server.

    Args:
        address: a host name or an address, and a port, where 0 means any free port.
        find: finds the addresses of published names.
        events: the stream to which events are published.

    Raises:
        ConfigurationError: the address cannot be used.
    """
    for attempt in range(_ATTEMPTS):
        port = await open_port(address, events=events)
        sockets: list[trio.socket.SocketType] = []
        try:
            for listener in port.listeners:
                sock = trio.socket.socket(listener.socket.family, socket.SOCK_DGRAM)
                sockets.append(sock)
                if sock.family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                await sock.bind(listener.socket.getsockname())
        except OSError as exc:
            NameServer(port, sockets, find, events).close()
            if address[1] != 0 or attempt == _ATTEMPTS - 1:
                raise ConfigurationError(
                    f"cannot listen on {format_address(*address)} with UDP: {exc.strerror or exc}",
                    remedy="find out which program uses the port with 'ss -lunp', or choose another port",
                ) from exc
        else:
            return NameServer(port, sockets, find, events)
    raise AssertionError("unreachable")


class NameServer:
    """Answers DNS queries. Made by `open_name_server`."""

    def __init__(
        self,
        port: OpenPort,
        sockets: Sequence[trio.socket.SocketType],
        find: FindAddresses,
        events: EventStream,
    ) -> None:
        self._port = port
        self._sockets = sockets
        self._find = find
        self._events = events
        #: The open connections, the oldest first.
        self._connections: dict[trio.CancelScope, None] = {}

    @property
    def bound(self) -> list[tuple[str, int]]:
        """The addresses and ports."""
        return self._port.bound

    def close(self) -> None:
        """Stop listening."""
        self._port.close()
        for sock in self._sockets:
            sock.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer queries until cancelled."""
        names = self._port.names
        self._events.publish(NameServerListening(addresses=names))
        others = tuple(format_address(host, port) for host, port in self.bound if not is_loopback(host))
        if others:
            self._events.publish(NameServerOpenToOthers(addresses=others))
        async with trio.open_nursery() as nursery:
            for sock in self._sockets:
                nursery.start_soon(self._serve_udp, sock)
            accept = partial(
                serve_listeners,
                self._serve_tcp,
                self._port.listeners,
                handler_nursery=nursery,
                events=self._events,
                what=f"the name server at {', '.join(names)}",
            )
            await nursery.start(accept)
            task_status.started()

    async def _serve_udp(self, sock: trio.socket.SocketType) -> None:
        while True:
            try:
                # One byte more, so that a message that is too long can be recognized.
                data, peer = await sock.recvfrom(MAX_MESSAGE + 1)
                answer = self._answer(data)
                if answer is not None:
                    await sock.sendto(answer, peer)
            except OSError:
                # The resolver has gone, or cannot be reached. It repeats the query if it still needs the answer.
                await trio.lowlevel.checkpoint()

    async def _serve_tcp(self, stream: trio.SocketStream) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.cancel()
        with trio.CancelScope() as scope:
            self._connections[scope] = None
            try:
                for _ in range(_MAX_QUERIES):
                    scope.deadline = trio.current_time() + IDLE_SECONDS
                    length = int.from_bytes(await receive_exactly(stream, 2), "big")
                    answer = self._answer(await receive_exactly(stream, length)) if length <= MAX_MESSAGE else None
                    if answer is None:
                        return
                    await stream.send_all(len(answer).to_bytes(2, "big") + answer)
            except trio.BrokenResourceError:
                return  # the resolver has closed the connection
            finally:
                self._connections.pop(scope, None)

    def _answer(self, data: bytes) -> bytes | None:
        try:
            return answer_untrusted(data, self._find)
        except Exception as exc:  # noqa: BLE001 - a bug must not end the name server
            self._events.publish(unexpected_failure("name server", exc))
            return None
