"""Resolving names, and opening TCP connections. An abandoned attempt never looks like a normal end of data.

A socket whose connection attempt is abandoned (cancelled, too slow, or the loser of a race) may already be connected,
because the kernel completes the handshake by itself. If it were closed in the usual way, the other end would see a
connection that ends normally without any data, which a server may interpret as a complete and empty request.
Therefore every socket is configured before it connects so that closing it resets the connection. Only for the
connection that is returned is this undone.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, Self, TypeAlias

import trio

from .name_lookups import AddressInfo, Purpose, lookups_for
from .sockets import reset_on_close

#: The next address is tried when the previous one has failed, or after this time (seconds), as RFC 8305 recommends.
STAGGER_SECONDS = 0.25
#: To how many addresses to connect at the same time, if not in a staggered race.
MAX_PARALLEL = 8

#: Connects to an address, and returns whether that has succeeded. If so, the nursery of all attempts is cancelled.
_Attempt: TypeAlias = Callable[[AddressInfo], Awaitable[bool]]
#: Begins the attempts at several addresses, in a nursery.
_Order: TypeAlias = Callable[[Sequence[AddressInfo], _Attempt, trio.Nursery, "Places"], Awaitable[None]]


def _all(addresses: Sequence[AddressInfo]) -> Sequence[AddressInfo]:
    return addresses


class Spare(Protocol):
    """A limited number of sockets for additional attempts, which run at the same time as another one."""

    def take(self) -> bool:
        """Take a place for one more socket. Returns False if there is none."""

    def give_back(self) -> None:
        """Note that one of these sockets was closed."""


class Places:
    """The places for the sockets of one connection's attempts: one, which the caller has, and those of `spare`.

    Without a place, an attempt waits until an earlier one has failed. Use it with ``with``: at the end, all sockets
    but one have to be closed.

    Args:
        spare: for additional sockets; None: as many as necessary.
    """

    def __init__(self, spare: Spare | None) -> None:
        self._spare = spare
        self._is_free = True
        self._taken = 0
        #: Set, and then replaced, whenever a place becomes free.
        self._freed = trio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._taken:
            self.release()

    async def acquire(self) -> None:
        """Wait for a place."""
        while True:
            if self._is_free:
                self._is_free = False
                return
            if self._spare is None or self._spare.take():
                self._taken += 1
                return
            await self._freed.wait()

    def release(self) -> None:
        """Note that a socket was closed."""
        if self._taken:
            self._taken -= 1
            if self._spare is not None:
                self._spare.give_back()
        else:
            self._is_free = True
        self._freed.set()
        self._freed = trio.Event()


async def open_tcp(
    host: str,
    port: int,
    *,
    keep_reset: bool = False,
    choose: Callable[[Sequence[AddressInfo]], Sequence[AddressInfo]] = _all,
    in_parallel: bool = False,
    purpose: Purpose = Purpose.RELAY,
    spare: Spare | None = None,
) -> trio.SocketStream:
    """Open a TCP connection to a name or an address.

    A name is resolved on every call. The first of several addresses to which a connection is made is used, and the
    attempts at the others are reset.

    Args:
        host: a name, or an IP address.
        port: from 1 to 65535.
        keep_reset: whether closing the returned connection still resets it; see `reset_on_close`.
        choose: returns those of the name's addresses that are to be connected to, at least one, or raises.
        in_parallel: whether to try up to `MAX_PARALLEL` addresses at the same time, and each further one when an
            attempt has failed. By default, there is a staggered race: one after the other, without waiting long for
            any of them.
        purpose: what the name is looked up for.
        spare: for the sockets of attempts at further addresses, while an earlier attempt waits; None: no limit.

    Raises:
        socket.gaierror: the name is unknown or cannot be a host name, or the name service failed.
        Exception: what `choose` raises.
        OSError: no address could be connected to. If there were several, it has no errno, and its cause is an
            `ExceptionGroup` with the error of each. `shortage_of` determines whether this machine lacks a resource.

    The caller sets the deadline. If cancelled, nothing stays open.
    """
    addresses = choose(await resolve_host(host, port, purpose=purpose))
    if len(addresses) == 1:
        sock = await _connect(addresses[0])
    else:
        with Places(spare) as places:
            sock = await _race(addresses, f"{host}:{port}", _all_at_once if in_parallel else _staggered, places)
    stream = trio.SocketStream(sock)
    if not keep_reset:
        reset_on_close(stream, on=False)
    return stream


async def resolve_host(
    host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM, *, purpose: Purpose = Purpose.RELAY
) -> Sequence[AddressInfo]:
    """Return the addresses of a name, at least one, in the order in which to try them. If `host` is an address,
    return it.

    If there are two address families, the first two addresses are of different families (RFC 8305).

    Raises:
        socket.gaierror: the name is unknown or cannot be a host name, or the name service failed.
        OSError: no thread can be started for the query.

    The caller sets the deadline.
    """
    try:
        found: Sequence[AddressInfo] = _parse_address(host, port, kind)
        if not found:
            found = await lookups_for(purpose).find(host, port, kind)
    except ValueError as error:
        # A name that is invalid in DNS (an empty or overlong label) is treated like a name that does not exist.
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a host name") from error
    return _interleaved(found)


def _parse_address(host: str, port: int, kind: socket.SocketKind) -> Sequence[AddressInfo]:
    """Return the address in `host`; empty if `host` is a name. Unlike Trio's resolver, this is not a checkpoint."""
    try:
        return socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return ()


def _interleaved(addresses: Sequence[AddressInfo]) -> list[AddressInfo]:
    """Order the addresses so that the first two are of different families, because one family may not work here at
    all."""
    ordered = list(addresses)
    other = next((index for index, address in enumerate(ordered) if address[0] != ordered[0][0]), None)
    if other is not None:
        ordered.insert(1, ordered.pop(other))
    return ordered


async def _connect(address: AddressInfo) -> trio.socket.SocketType:
    family, kind, proto, _, sockaddr = address
    sock = trio.socket.socket(family, kind, proto)
    try:
        reset_on_close(sock, on=True)
        await sock.connect(sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


async def _race(
    addresses: Sequence[AddressInfo], target: str, order: _Order, places: Places
) -> trio.socket.SocketType:
    winners: list[trio.socket.SocketType] = []
    errors: list[OSError] = []
    try:
        async with trio.open_nursery() as nursery:

            async def attempt(address: AddressInfo) -> bool:
                try:
                    winners.append(await _connect(address))
                except OSError as error:
                    errors.append(error)
                    places.release()
                    return False
                nursery.cancel_scope.cancel()
                return True

            await order(addresses, attempt, nursery, places)
        if not winners:
            raise OSError(f"all attempts to connect to {target} failed") from ExceptionGroup("attempts", errors)
    except BaseException:
        for sock in winners:
            sock.close()
        raise
    for sock in winners[1:]:  # several may have connected at the same moment
        sock.close()
    return winners[0]


async def _staggered(
    addresses: Sequence[AddressInfo], attempt: _Attempt, nursery: trio.Nursery, places: Places
) -> None:
    """Begin one attempt after the other, as RFC 8305 recommends."""

    async def run(address: AddressInfo, failed: trio.Event) -> None:
        if not await attempt(address):
            failed.set()

    for address in addresses:
        failed = trio.Event()
        await places.acquire()
        nursery.start_soon(run, address, failed)
        with trio.move_on_after(STAGGER_SECONDS):
            await failed.wait()


async def _all_at_once(
    addresses: Sequence[AddressInfo], attempt: _Attempt, nursery: trio.Nursery, places: Places
) -> None:
    """Begin up to `MAX_PARALLEL` attempts at the same time, and another one whenever one has failed."""
    untried = iter(addresses)

    async def try_next() -> None:
        await places.acquire()
        for address in untried:  # shared by these tasks: each address is tried once
            if await attempt(address):
                return
            await places.acquire()
        places.release()

    for _ in addresses[:MAX_PARALLEL]:
        nursery.start_soon(try_next)
