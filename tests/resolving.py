"""A name resolver for tests that asks no name server."""

from __future__ import annotations

import socket
from typing import Literal, TypeAlias

import trio

#: One answer for IPv4 and one for IPv6, as `trio.abc.HostnameResolver.getaddrinfo` has them.
_IPv4: TypeAlias = tuple[Literal[socket.AddressFamily.AF_INET], socket.SocketKind, int, str, tuple[str, int]]
_IPv6: TypeAlias = tuple[
    Literal[socket.AddressFamily.AF_INET6],
    socket.SocketKind,
    int,
    str,
    tuple[str, int, int, int] | tuple[int, bytes],
]


class FixedResolver(trio.abc.HostnameResolver):
    """Resolves every name to the same addresses, or raises `error` for every name.

    It expects to be asked for addresses of sockets of one kind, and fails the test if it is asked for another.
    """

    def __init__(
        self,
        *addresses: str,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        error: OSError | None = None,
    ) -> None:
        self.addresses = addresses
        self.kind = kind
        self.error = error
        #: The names that it was asked for.
        self.asked: list[bytes | None] = []

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> list[_IPv4 | _IPv6]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        if self.error is not None:
            raise self.error
        assert type == self.kind
        return [self._answer(address, int(port or 0)) for address in self.addresses]

    def _answer(self, address: str, port: int) -> _IPv4 | _IPv6:
        if ":" in address:
            return (socket.AF_INET6, self.kind, 0, "", (address, port, 0, 0))
        return (socket.AF_INET, self.kind, 0, "", (address, port))

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
        raise NotImplementedError
