"""Watches unauthenticated connections, with one task and one epoll set for all, until they need a task.

Starting a task for a connection costs ten times as much as accepting it and checking its first bytes. Therefore a
stranger gets a task only when it has sent a complete preamble (and a ClientHello, if TLS follows) and may begin its
handshake (`permits`). Until then, the relay uses about 2 KiB for the connection, and only peeks at its bytes, which
stay in the kernel for the task to read.
"""

from __future__ import annotations

import enum
import select
import socket
import sys
from collections.abc import Callable

import attrs
import trio

from ...abc import Incoming
from ...protocol.errors import RemoteProtocolError
from ...protocol.preamble import PREAMBLE_SIZE, PROBE_SIZE, encode_status
from ...protocol.reasons import Reason
from ...security import NO_NETWORKS, Networks
from ...streams.client_hello import MAX_CLIENT_HELLO, ClientHelloReader
from ...streams.listening import LOCAL
from ...streams.proxy_protocol import MAX_PROXY_HEADER, ProxyHeader, ProxyHeaderError, parse_proxy_header_untrusted
from ..limits import AUTHENTICATION_DEADLINE_SECONDS
from .handshakes import Handshake
from .permits import HandshakePermit, HandshakeScheduler
from .ports import OpenPort
from .requests import ControlRequest, DataRequest, ProbeRequest, Request
from .slots import Slot, Slots, address_group

__all__ = ["UnauthenticatedConnection", "UnauthenticatedConnections"]

#: A connection is closed if its first message is still incomplete after this many checks, because its peer then sends
#: tiny pieces to keep the relay busy.
MAX_LOOKS = 64
#: How many connections are checked before other tasks run. This takes about half a millisecond.
_AT_A_TIME = 4


class _Stage(enum.Enum):
    """What a connection waits for."""

    #: The PROXY header, from a proxy that has to send one.
    PROXY = enum.auto()
    #: A preamble.
    PREAMBLE = enum.auto()
    #: The bytes after a probe's preamble, which have to be sent back.
    PROBE = enum.auto()
    #: A ClientHello.
    HELLO = enum.auto()
    #: Any bytes, which only the transport can interpret.
    ANYTHING = enum.auto()
    #: Permission to begin its handshake.
    PERMIT = enum.auto()


@attrs.define(eq=False)
class UnauthenticatedConnection:
    """A connection whose peer has not authenticated, for the task that serves it."""

    port: OpenPort
    #: The socket's stream, before the transport's handshake; or the incoming connection, if the transport accepts by
    #: itself.
    arrived: trio.SocketStream | Incoming
    #: The peer's address. Changed if a trusted reverse proxy states another one during the transport's handshake.
    address: str
    slot: Slot
    permit: HandshakePermit
    #: Cancelled at the deadline, or if its slot is needed. The task that serves the connection enters it.
    scope: trio.CancelScope
    #: The request in the preamble, if that was already read.
    request: Request | None = None


@attrs.define(eq=False)
class _Waiting:
    """A connection that is waiting."""

    port: OpenPort
    socket: socket.socket
    address: str
    slot: Slot
    handshake: Handshake
    deadline: float
    stage: _Stage
    request: Request | None = None
    looks: int = 0


class UnauthenticatedConnections:
    """Connections that have not sent enough yet to be served by a task. Linux only.

    Args:
        slots: the slots for unauthenticated connections; each connection has one.
        scheduler: gives permission for handshakes.
        decode: decodes a preamble. Raises RemoteProtocolError if the connection has to be refused.
        serve: serves a connection in its own task. If it has no request, nothing has been read from it, except for
            the PROXY header.
        proxies: the proxies that have to send a PROXY header.
        refused: called when a connection from a proxy is closed, with the port, the proxy's address and the reason.
    """

    def __init__(
        self,
        slots: Slots,
        scheduler: HandshakeScheduler,
        *,
        decode: Callable[[OpenPort, bytes], Request],
        serve: Callable[[UnauthenticatedConnection], None],
        proxies: Networks = NO_NETWORKS,
        refused: Callable[[OpenPort, str, str], None] = lambda port, address, detail: None,
    ) -> None:
        self._slots = slots
        self._scheduler = scheduler
        self._decode = decode
        self._serve = serve
        #: The proxies that have to send a PROXY header. May be replaced: connections that wait are not affected.
        self.proxies = proxies
        self._refused = refused
        #: The waiting connections by descriptor, the oldest first.
        self._connections: dict[int, _Waiting] = {}
        self._poll_scope = trio.CancelScope()
        assert sys.platform == "linux"
        self._epoll = select.epoll()

    def __len__(self) -> int:
        """Return the number of connections that are waiting."""
        return len(self._connections)

    def enter(self, port: OpenPort, sock: socket.socket, name: object) -> None:
        """Add a connection that was just accepted. This object then owns the socket.

        Args:
            port: the port on which it was accepted.
            sock: its socket.
            name: the peer's address, as `socket.accept` returns it.

        Raises:
            OSError: the system cannot watch another descriptor; the socket was closed.
        """
        fd = sock.fileno()
        try:
            sock.setblocking(False)
            # Edge-triggered, because the bytes stay in the socket and must be reported only once.
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        except BaseException:
            sock.close()
            raise
        address = str(name[0]) if isinstance(name, tuple) else LOCAL
        self._connections[fd] = _Waiting(
            port,
            sock,
            address,
            self._slots.take(address, lambda: self._close(fd)),
            Handshake(address_group(address), lambda: self._hand_over(fd)),
            trio.current_time() + AUTHENTICATION_DEADLINE_SECONDS,
            _Stage.PROXY if self.proxies.covers(address) else _first_stage(port),
        )
        if len(self._connections) == 1:
            self._poll_scope.deadline = self._first_deadline()

    async def run(self) -> None:
        """Watch the connections until cancelled. At the end, all of them are closed."""
        try:
            while True:
                with trio.CancelScope(deadline=self._first_deadline()) as self._poll_scope:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._close_late(trio.current_time())
                for fd, events in self._epoll.poll(0, _AT_A_TIME):
                    if (waiting := self._connections.get(fd)) is not None:
                        self._look(fd, waiting, events)
        finally:
            for fd in list(self._connections):
                self._close(fd)
            self._epoll.close()

    def _first_deadline(self) -> float:
        for waiting in self._connections.values():
            return waiting.deadline
        return float("inf")

    def _close_late(self, now: float) -> None:
        while self._connections and self._first_deadline() <= now:
            fd, waiting = next(iter(self._connections.items()))
            if waiting.stage is _Stage.PROXY:
                seconds = f"{AUTHENTICATION_DEADLINE_SECONDS:g} s"
                self._refused(waiting.port, waiting.address, f"no complete PROXY header has arrived within {seconds}")
            self._close(fd)

    def _look(self, fd: int, waiting: _Waiting, events: int) -> None:
        """Handle an event of a connection's socket."""
        waiting.looks += 1
        try:
            while (stage := waiting.stage) is not _Stage.PERMIT:
                self._proceed(fd, waiting)
                if waiting.stage is stage or fd not in self._connections:
                    break
        except ProxyHeaderError as exc:
            self._refused(waiting.port, waiting.address, str(exc))
            self._close(fd)
            return
        except (OSError, ValueError):  # the connection was lost, or its ClientHello is too long
            self._close(fd)
            return
        if fd not in self._connections:
            return
        is_over = _is_over(waiting, events)
        if waiting.looks >= MAX_LOOKS and not is_over and waiting.stage is _Stage.PROXY:
            self._refused(waiting.port, waiting.address, f"no complete PROXY header has arrived in {MAX_LOOKS} parts")
        if waiting.looks >= MAX_LOOKS or is_over:
            self._close(fd)

    def _proceed(self, fd: int, waiting: _Waiting) -> None:
        """Continue with the next stage, if enough bytes have arrived.

        Raises:
            OSError, ValueError: the connection has to be closed.
        """
        match waiting.stage:
            case _Stage.PROXY:
                found = parse_proxy_header_untrusted(_peek(waiting.socket, MAX_PROXY_HEADER))
                if isinstance(found, ProxyHeader):
                    waiting.socket.recv(found.size)
                    if found.address is not None:
                        self._move(waiting, found.address)
                    waiting.stage = _first_stage(waiting.port)
            case _Stage.PREAMBLE:
                if len(_peek(waiting.socket, PREAMBLE_SIZE)) == PREAMBLE_SIZE:
                    self._read_preamble(fd, waiting, waiting.socket.recv(PREAMBLE_SIZE))
            case _Stage.PROBE:
                if len(_peek(waiting.socket, PROBE_SIZE)) == PROBE_SIZE:
                    waiting.socket.send(waiting.socket.recv(PROBE_SIZE))
                    self._close(fd)
            case _Stage.HELLO:
                if ClientHelloReader().receive_untrusted(_peek(waiting.socket, MAX_CLIENT_HELLO)):
                    waiting.stage = _Stage.PERMIT
                    self._scheduler.add(waiting.handshake)
            case _Stage.ANYTHING:
                if _peek(waiting.socket, 1):
                    waiting.stage = _Stage.PERMIT
                    self._scheduler.add(waiting.handshake)

    def _move(self, waiting: _Waiting, address: str) -> None:
        """Count a connection for the address that its proxy has stated."""
        waiting.address = address
        self._slots.move(waiting.slot, address)
        waiting.handshake.group = address_group(address)

    def _read_preamble(self, fd: int, waiting: _Waiting, preamble: bytes) -> None:
        try:
            request = waiting.request = self._decode(waiting.port, preamble)
        except RemoteProtocolError as exc:
            waiting.socket.send(encode_status(exc.reason))
            self._close(fd)
            return
        if isinstance(request, DataRequest):  # the ticket is valid; the answer comes when the other side arrives
            self._hand_over(fd)
            return
        if isinstance(request, ControlRequest) and request.key_id is not None:
            waiting.handshake.key_id = request.key_id
            self._slots.prove(waiting.slot, request.key_id)
        waiting.socket.send(encode_status(Reason.NO_ERROR))
        waiting.stage = _Stage.PROBE if isinstance(request, ProbeRequest) else _Stage.HELLO

    def _hand_over(self, fd: int) -> None:
        waiting = self._leave(fd)
        scope = trio.CancelScope(deadline=waiting.deadline)
        waiting.slot.evict = scope.cancel
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(waiting.socket))
        permit = HandshakePermit(self._scheduler, waiting.handshake, is_granted=True)
        self._serve(
            UnauthenticatedConnection(
                waiting.port, stream, waiting.address, waiting.slot, permit, scope, waiting.request
            )
        )

    def _close(self, fd: int) -> None:
        waiting = self._leave(fd)
        self._scheduler.leave(waiting.handshake)
        self._slots.release(waiting.slot)
        waiting.socket.close()

    def _leave(self, fd: int) -> _Waiting:
        self._epoll.unregister(fd)
        return self._connections.pop(fd)


def _first_stage(port: OpenPort) -> _Stage:
    return _Stage.PREAMBLE if port.is_plain else _Stage.HELLO if port.outer_tls else _Stage.ANYTHING


def _peek(sock: socket.socket, size: int) -> bytes:
    """Return up to `size` bytes that have arrived, without removing them from the socket."""
    try:
        return sock.recv(size, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


def _is_over(waiting: _Waiting, events: int) -> bool:
    """Return whether nothing useful can arrive any more.

    An HTTP client may have ended its sending direction and still wait for the answer.
    """
    if events & (select.EPOLLHUP | select.EPOLLERR):
        return True
    no_answer = waiting.request is not None or waiting.port.outer_tls or waiting.stage is _Stage.PROXY
    return bool(events & select.EPOLLRDHUP) and no_answer
