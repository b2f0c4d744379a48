"""The name server of an application. It knows the published names; it may forward other queries to another server."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Final

import trio

from ..._descriptors import is_reserved
from ...security.names import normal_host
from ..names.dns import MAX_MESSAGE, NotAQuery, Query, ResponseCode, make_answer, make_failure, parse_query_untrusted
from .addresses import Address

__all__ = ["serve_names"]

#: How long an answer may be cached (seconds). Addresses stay the same as long as the application runs.
_TTL: Final = 5
#: How long another server may take to answer (seconds). Resolvers ask again after 5 s.
_ASK_SECONDS: Final = 5.0
#: How many forwarded queries may wait for an answer. Further ones are dropped, and the resolver repeats them.
_MAX_ASKED: Final = 256

#: Returns the server to which the socket with this address has sent its query; None if queries of this socket are
#: ignored.
WantedServer = Callable[[Address], Address | None]


async def serve_names(sock: socket.socket, names: Mapping[str, str], wanted_server: WantedServer | None) -> None:
    """Answer queries until cancelled.

    Args:
        sock: a bound UDP socket. The caller closes it.
        names: the published names, in lower case, with their addresses.
        wanted_server: to which server other queries are forwarded. None: other names do not exist.
    """
    sock.setblocking(False)
    asked = trio.CapacityLimiter(_MAX_ASKED)
    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                data, peer = sock.recvfrom(MAX_MESSAGE)
            except (BlockingIOError, ConnectionError):  # an earlier answer was not delivered
                continue
            try:
                query = parse_query_untrusted(data)
            except NotAQuery:
                continue
            answer = _answer(query, names, knows_all=wanted_server is None)
            if answer is not None:
                if wanted_server is None or wanted_server(peer) is not None:
                    _send(sock, answer, peer)
            elif wanted_server is not None and (server := wanted_server(peer)) is not None:
                try:
                    asked.acquire_on_behalf_of_nowait(key := object())
                except trio.WouldBlock:
                    continue
                nursery.start_soon(_pass_on, sock, data, peer, server, asked, key)


def _answer(query: Query, names: Mapping[str, str], *, knows_all: bool) -> bytes | None:
    """Return the answer; None if the query has to be forwarded."""
    address = names.get(normal_host(query.name))
    if address is not None and query.is_standard and query.is_internet:
        return make_answer(query, [ip_address(address)], ttl=_TTL)
    if not knows_all:
        return None
    return make_failure(query, ResponseCode.NAME_ERROR if query.is_standard else ResponseCode.NOT_IMPLEMENTED)


async def _pass_on(
    sock: socket.socket, data: bytes, peer: Address, server: Address, asked: trio.CapacityLimiter, key: object
) -> None:
    """Forward a query to another server, and its answer to the resolver. If that server does not answer, there is no
    answer."""
    try:
        with trio.move_on_after(_ASK_SECONDS):
            try:
                family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
                with trio.socket.socket(family, socket.SOCK_DGRAM) as asking:
                    if is_reserved(asking.fileno()):
                        return  # the program needs it for itself
                    await asking.connect(server)
                    await asking.send(data)
                    answer = await asking.recv(65535)
                    while answer[:2] != data[:2]:  # from the same server, to which the socket is connected
                        answer = await asking.recv(65535)
            except OSError:
                # For the resolver, this is as if that server had not answered: it repeats the query, or gives up.
                return
            _send(sock, answer, peer)
    finally:
        asked.release_on_behalf_of(key)


def _send(sock: socket.socket, answer: bytes, peer: Address) -> None:
    try:
        sock.sendto(answer, peer)
    except OSError:
        # The resolver has given up; or the socket's buffer is full, and the resolver will repeat the query.
        return
