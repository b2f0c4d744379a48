"""Where connections wait until there is something to do for them: one task and one epoll set for all.

A task for a connection costs ten times what it takes to accept the connection and to look at its first bytes. A
stranger therefore gets a task only after it has sent a complete preamble (and a ClientHello, if TLS follows), and
when it may begin its handshake (`permits`). Until then its bytes stay in the kernel: they are peeked at and not
consumed, so that the code which serves the connection afterwards finds all of them, and the relay holds about 2 KiB
for it.
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
from ...streams.client_hello import MAX_CLIENT_HELLO, ClientHelloReader
from ...streams.listening import LOCAL
from ..limits import AUTHENTICATION_DEADLINE_SECONDS
from .handshakes import Handshake
from .permits import HandshakePermit, HandshakeScheduler
from .ports import OpenPort
from .requests import ControlRequest, DataRequest, ProbeRequest, Request
from .slots import Slot, Slots, address_group

__all__ = ["UnauthenticatedConnection", "UnauthenticatedConnections"]

#: A peer that has not sent a complete message after this many checks sends it in tiny pieces, to keep the relay busy.
MAX_LOOKS = 64
#: Connections that are looked at before other tasks run: about half a millisecond.
_AT_A_TIME = 4


class _Stage(enum.Enum):
    #: A preamble is to come.
    PREAMBLE = enum.auto()
    #: After the preamble of a probe: the bytes that are to be sent back.
    PROBE = enum.auto()
    #: A ClientHello is to come.
    HELLO = enum.auto()
    #: Anything is to come: only the transport knows.
    ANYTHING = enum.auto()
    #: Nothing more: it waits until it may begin its handshake.
    PERMIT = enum.auto()


@attrs.frozen(eq=False)
class UnauthenticatedConnection:
    """A connection that has not authenticated, for the task that serves it."""

    port: OpenPort
    #: What was accepted, with nothing added to it; or a connection of a transport that accepts by itself.
    arrived: trio.SocketStream | Incoming
    address: str
    slot: Slot
    permit: HandshakePermit
    #: Cancelled when it is too late, or has to give way. The task that serves the connection enters it.
    scope: trio.CancelScope
    #: What its preamble asks for, where that was read already.
    request: Request | None = None


@attrs.define(eq=False)
class _Waiting:
    """A connection that waits."""

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
    """Connections of which too little is known to do anything for them. Linux.

    Args:
        slots: each connection holds one.
        scheduler: permits handshakes.
        decode: what a preamble asks for; raises RemoteProtocolError where the answer is a refusal.
        serve: takes over a connection, in a task of its own. Without a request, nothing has been read from it.
    """

    def __init__(
        self,
        slots: Slots,
        scheduler: HandshakeScheduler,
        *,
        decode: Callable[[OpenPort, bytes], Request],
        serve: Callable[[UnauthenticatedConnection], None],
    ) -> None:
        self._slots = slots
        self._scheduler = scheduler
        self._decode = decode
        self._serve = serve
        #: By descriptor, the oldest first.
        self._connections: dict[int, _Waiting] = {}
        self._poll_scope = trio.CancelScope()
        assert sys.platform == "linux"
        self._epoll = select.epoll()

    def __len__(self) -> int:
        """Connections that wait."""
        return len(self._connections)

    def enter(self, port: OpenPort, sock: socket.socket, name: object) -> None:
        """Take in a connection that was just accepted; it belongs to this object from now on.

        Args:
            port: where it was accepted.
            sock: of the connection.
            name: of its peer, as `socket.accept` returns it.

        Raises:
            OSError: the system cannot watch another one; it was closed.
        """
        fd = sock.fileno()
        try:
            sock.setblocking(False)
            # Edge-triggered: the bytes stay in the socket, and are reported only once.
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
            _Stage.PREAMBLE if port.is_plain else _Stage.HELLO if port.outer_tls else _Stage.ANYTHING,
        )
        if len(self._connections) == 1:
            self._poll_scope.deadline = self._first_deadline()

    async def run(self) -> None:
        """Watch the connections until cancelled; all of them are closed at the end."""
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
            self._close(next(iter(self._connections)))

    def _look(self, fd: int, waiting: _Waiting, events: int) -> None:
        """Something has happened to a connection."""
        waiting.looks += 1
        try:
            while (stage := waiting.stage) is not _Stage.PERMIT:
                self._proceed(fd, waiting)
                if waiting.stage is stage or fd not in self._connections:
                    break
        except (OSError, ValueError):  # it is gone, or its ClientHello is too long
            self._close(fd)
            return
        if fd in self._connections and (waiting.looks >= MAX_LOOKS or _is_over(waiting, events)):
            self._close(fd)

    def _proceed(self, fd: int, waiting: _Waiting) -> None:
        """Go on to the next stage, if enough is there for it.

        Raises:
            OSError, ValueError: it has to be closed.
        """
        match waiting.stage:
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

    def _read_preamble(self, fd: int, waiting: _Waiting, preamble: bytes) -> None:
        try:
            request = waiting.request = self._decode(waiting.port, preamble)
        except RemoteProtocolError as exc:
            waiting.socket.send(encode_status(exc.reason))
            self._close(fd)
            return
        if isinstance(request, DataRequest):  # the ticket is valid, and its answer waits for the other side
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


def _peek(sock: socket.socket, size: int) -> bytes:
    """What has arrived, up to `size`, without taking it."""
    try:
        return sock.recv(size, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


def _is_over(waiting: _Waiting, events: int) -> bool:
    """Whether nothing useful can arrive any more.

    An HTTP client may have ended its sending side and still wait for the answer.
    """
    if events & (select.EPOLLHUP | select.EPOLLERR):
        return True
    return bool(events & select.EPOLLRDHUP) and (waiting.request is not None or waiting.port.outer_tls)
