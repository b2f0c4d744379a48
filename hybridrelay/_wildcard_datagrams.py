"""UDP sockets at which programs send: where an answer has to leave from, and which answers reach nobody.

At a wildcard address, an answer has to leave from the address to which the request was sent, because a program with a
connected socket ignores answers from another address. If the program has closed its socket, Linux reports that when
it is asked to (``IP_RECVERR``, see ip(7)).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

__all__ = ["LocalSocket", "Source", "ask_for_addresses", "is_wildcard"]

#: Linux's numbers of socket options and control messages that say to which address a datagram was sent, and from
#: which address another is to be sent: for IPv4 (``IP_PKTINFO``: interface, own address, address in the header), and
#: for IPv6 (``IPV6_RECVPKTINFO`` and ``IPV6_PKTINFO``: address, interface).
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50
_PKTINFO = struct.Struct("=I4s4s")
_CONTROL_BYTES = 128
#: Linux's options and control messages for errors that concern an earlier datagram; the flag that reads them; and
#: their content: errno, origin (an ICMP message of IPv4 or IPv6, among others), and behind that the address that has
#: reported it.
_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
_MSG_ERRQUEUE = 0x2000
_EXTENDED_ERROR = struct.Struct("=IB11x")
_ORIGINS = frozenset({2, 3})
#: Where a socket address contains the IP address.
_ADDRESS_OF = {socket.AF_INET: slice(4, 8), socket.AF_INET6: slice(8, 24)}
#: Where a datagram comes from: the source address as the socket module has it, and what `LocalSocket.send` needs in
#: order to answer from the address to which it was sent.
Source: TypeAlias = tuple[tuple[Any, ...], tuple[tuple[int, int, bytes], ...]]


def is_wildcard(host: str) -> bool:
    """Return whether an IP address means all addresses of this machine."""
    return ipaddress.ip_address(host.partition("%")[0]).is_unspecified


def ask_for_addresses(sock: socket.socket) -> None:
    """Make the system tell a UDP socket to which address each datagram was sent. To be called before the socket is
    bound to a wildcard address.

    Raises:
        OSError: the system is not Linux (EOPNOTSUPP), or does not do it.
    """
    if sys.platform == "linux":
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        raise OSError(errno.EOPNOTSUPP, "this system does not say to which address a datagram was sent")


class LocalSocket:
    """A UDP socket at which programs send. An answer leaves from the address to which the program has sent. At a
    wildcard address, this needs `ask_for_addresses`.

    Args:
        sock: is bound, and does not block.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._knows_addresses = is_wildcard(sock.getsockname()[0])
        if sys.platform == "linux":
            sock.setsockopt(*_RECVERR[socket.AddressFamily(sock.family)], 1)

    def receive(self, size: int) -> tuple[bytes, Source]:
        """Return a datagram of at most `size` bytes, and where it comes from. Raises OSError, as `recvfrom`."""
        if sys.platform != "win32" and self._knows_addresses:
            data, control, _, source = self.socket.recvmsg(size, _CONTROL_BYTES)
            return data, (source, tuple(_answers_from(control)))
        data, source = self.socket.recvfrom(size)
        return data, (source, ())

    def send(self, data: bytes, to: Source) -> None:
        """Answer a program. Raises OSError, as `sendto`."""
        source, control = to
        if sys.platform != "win32" and control:
            self.socket.sendmsg([data], control, 0, source)
        else:
            self.socket.sendto(data, source)

    def errors(self) -> list[tuple[Any, ...] | None]:
        """Read the errors that concern earlier answers. While there are any, `receive` and `send` may fail because of
        them, and the socket is readable.

        Returns:
            For each error, the address of a program if its system has reported that nothing receives there; None for
            other errors. Always empty on other systems than Linux.
        """
        found: list[tuple[Any, ...] | None] = []
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                while True:
                    _, control, _, program = self.socket.recvmsg(0, _CONTROL_BYTES, _MSG_ERRQUEUE)
                    found.append(program if _says_refused(self.socket.family, control, program) else None)
        return found


def _says_refused(family: int, control: Sequence[tuple[int, int, bytes]], program: tuple[Any, ...]) -> bool:
    """Return whether the address of a program has itself reported that nothing receives there: a message of another
    address may be forged."""
    known = socket.AddressFamily(family)
    for level, kind, content in control:
        if (level, kind) == _RECVERR[known] and len(content) > _EXTENDED_ERROR.size:
            number, origin = _EXTENDED_ERROR.unpack_from(content)
            reporter = content[_EXTENDED_ERROR.size :][_ADDRESS_OF[known]]
            of_program = socket.inet_pton(known, str(program[0]).partition("%")[0])
            return number == errno.ECONNREFUSED and origin in _ORIGINS and reporter == of_program
    return False


def _answers_from(control: Sequence[tuple[int, int, bytes]]) -> Sequence[tuple[int, int, bytes]]:
    """Return the control messages with which an answer leaves from the address that control messages name."""
    found = []
    for level, kind, content in control:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(content) == _PKTINFO.size:
            _, own, _ = _PKTINFO.unpack(content)
            found.append((level, kind, _PKTINFO.pack(0, own, bytes(4))))
        elif (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            found.append((level, kind, content))
    return found
