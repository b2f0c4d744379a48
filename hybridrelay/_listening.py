"""Opening listeners and UDP sockets; and if this fails, explaining why, and what to do about it."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence
from typing import Any

import trio

from ._shortage import shortage_of
from ._threads import thread_errors
from ._wildcard_datagrams import ask_for_addresses, is_wildcard
from .events.program import ListenAddressSkipped
from .events.stream import EventStream

#: How many connections may wait to be accepted. The system also has a limit (net.core.somaxconn).
_BACKLOG = 0xFFFF

#: The first local port for outgoing connections by default on Linux. On other systems it is higher.
_EPHEMERAL = 32768
#: The command that shows which program uses a port.
_WHO_LISTENS = {"linux": "ss -ltnp", "win32": "netstat -abn"}.get(sys.platform, "lsof -nP -iTCP")
_WHO_RECEIVES = {"linux": "ss -lunp", "win32": "netstat -abn"}.get(sys.platform, "lsof -nP -iUDP")
_WHO_HAS_IT = {"linux": "ss -tanp"}.get(sys.platform, _WHO_LISTENS)

#: How long the name service may take to resolve a name at which to listen (seconds).
_LOOKUP_SECONDS = 10.0

_PRIVILEGE = (
    "ports below 1024 need a privilege: set net.ipv4.ip_unprivileged_port_start, or AmbientCapabilities="
    "CAP_NET_BIND_SERVICE in the service's unit"
)


async def open_listeners(host: str | None, port: int, *, events: EventStream) -> list[trio.SocketListener]:
    """Listen on all addresses of a host name that belong to this machine.

    (In many containers, the hosts file gives `localhost` an IPv6 address that no interface has.)

    Args:
        host: a name or an address; None for all addresses of this machine.
        port: 0 for any free port, which is a different one for each address.
        events: the stream to which an event is published for each address that was left out.

    Raises:
        OSError: the name cannot be resolved, none of the addresses belongs to this machine, or one that does cannot
            be used.
    """
    addresses = await _look_up(host, port, trio.socket.SOCK_STREAM, trio.socket.AI_PASSIVE)
    listeners: list[trio.SocketListener] = []
    absent: list[OSError] = []
    try:
        for family, type_, protocol, _, address in addresses:
            try:
                listeners.append(await _listen(family, type_, protocol, address))
            except OSError as exc:
                if exc.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                absent.append(exc)
                if len(addresses) > 1:
                    events.publish(ListenAddressSkipped(address=str(address[0]), detail=exc.strerror or str(exc)))
        if not listeners:
            raise absent[0]
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _look_up(host: str | None, port: int, kind: int, flags: int = 0) -> Sequence[tuple[Any, ...]]:
    """Return the addresses of a name, as `socket.getaddrinfo` does. Raises OSError, even for a timeout."""
    with trio.move_on_after(_LOOKUP_SECONDS), thread_errors():
        return await trio.socket.getaddrinfo(host, port, type=kind, flags=flags)
    raise OSError(errno.ETIMEDOUT, f"the name service did not answer within {_LOOKUP_SECONDS:g} s")


async def _listen(family: int, type_: int, protocol: int, address: tuple[Any, ...]) -> trio.SocketListener:
    sock = trio.socket.socket(family, type_, protocol)
    try:
        if sys.platform != "win32":  # on Windows, this would let other programs take over the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind(address)
        sock.listen(_BACKLOG)
        return trio.SocketListener(sock)
    except BaseException:
        sock.close()
        raise


async def bind_datagrams(host: str, port: int) -> list[socket.socket]:
    """Return UDP sockets that receive datagrams at all addresses of a host name that belong to this machine. They do
    not block.

    Args:
        host: a name or an address. At a wildcard address, `LocalSocket` answers from the address to which a datagram
            was sent.
        port: 0 for any free port, which is a different one for each address.

    Raises:
        OSError: see `open_listeners`; or `host` is a wildcard address, and this system does not say to which address
            a datagram was sent (EOPNOTSUPP).
    """
    addresses = await _look_up(host, port, trio.socket.SOCK_DGRAM)
    found: list[socket.socket] = []
    absent: list[OSError] = []
    try:
        for family, type_, protocol, _, address in addresses:
            try:
                sock = socket.socket(family, type_, protocol)
            except OSError as exc:
                absent.append(exc)
                continue
            try:
                sock.setblocking(False)
                if is_wildcard(str(address[0])):
                    ask_for_addresses(sock)
                sock.bind(address)
            except OSError as exc:
                sock.close()
                if exc.errno != errno.EADDRNOTAVAIL:
                    raise
                absent.append(exc)
            else:
                found.append(sock)
        if not found:
            raise absent[0]
    except BaseException:
        for sock in found:
            sock.close()
        raise
    return found


def explain_listen_error(error: OSError, port: int, *, otherwise: str, datagrams: bool = False) -> tuple[str, str]:
    """Explain an error of `open_listeners`, or of `bind_datagrams`.

    Args:
        error: the exception.
        port: the port number that was requested.
        otherwise: an alternative for the remedy, as "or ...".
        datagrams: whether the port is for datagrams, and not for connections.

    Returns:
        A short description of the problem, and a remedy.
    """
    text = error.strerror or str(error)
    match error.errno:
        case errno.EADDRINUSE:
            remedy = _who_has(port, datagrams=datagrams)
        case errno.EACCES:
            remedy = _PRIVILEGE
        case errno.EADDRNOTAVAIL:
            remedy = "give an address that an interface of this machine has"
        case _:
            shortage = None if isinstance(error, socket.gaierror) else shortage_of(error)
            if shortage is not None:
                return f"this machine {shortage.text}", shortage.remedy
            return text, otherwise.removeprefix("or ")
    return text, f"{remedy}, {otherwise}"


def _who_has(port: int, *, datagrams: bool) -> str:
    if datagrams:
        return f"find out which program uses it with '{_WHO_RECEIVES}' (only root sees other users' programs)"
    if port < _EPHEMERAL:
        return f"find out which program uses it with '{_WHO_LISTENS}' (only root sees other users' programs)"
    return f"find out which program uses it with '{_WHO_HAS_IT}' (here it may be an outgoing connection)"
