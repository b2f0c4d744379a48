"""Fronts: local ports that many hybrid connections share. Applications say which one they want, in the protocol of a
proxy.

Only what is published can be reached. A front never connects to an address, and never resolves a name, that an
application has sent.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs
import trio

from ..._accepting import accept_sockets
from ..._unexpected_failure import unexpected_failure
from ..._value import Value
from ...connectivity.endpoint import format_address
from ...events.fronts import FrontListening, FrontOpenToOthers, FrontRequestRefused
from ...events.stream import EventStream
from ...security.names import HostPort, is_loopback
from ...streams.forking import close_in_children
from ...streams.sockets import abort_socket, tune_socket
from .connections import Connections
from .handshake import FrontHandshake, FrontRefusal
from .ports import OpenPort
from .replies import close_after

__all__ = ["FindConnections", "Found", "Front"]


@attrs.frozen
class Found(Value):
    """What serves connections to a published host and port."""

    connections: Connections
    #: Which port of the target it leads to, if the hybrid connection has several; None: the first one.
    port: int | None = None


#: Returns what serves connections to a published host and port, which is in normal form; None if it is not published.
FindConnections = Callable[[HostPort], Found | None]

#: How long an application may take to say what it wants (seconds).
HANDSHAKE_SECONDS: Final = 10.0
#: How many handshakes may be in progress, together with connections that were refused and are not closed yet. If
#: there are more, the oldest refused one is reset; if there is none, the oldest handshake is cancelled.
MAX_HANDSHAKES: Final = 256
#: How many bytes of a handshake are parsed at a time.
_PEEK_BYTES: Final = 4096


class Front:
    """Serves one front.

    Args:
        kind: its name in events: ``socks`` or ``http-proxy``.
        port: from `open_port`. The caller closes it after `run` has returned.
        make_handshake: makes the protocol for one connection.
        requires_password: returns whether a user name and a password are required.
        find: finds what is published.
        events: the stream to which events are published.
    """

    def __init__(
        self,
        kind: str,
        port: OpenPort,
        make_handshake: Callable[[], FrontHandshake],
        *,
        requires_password: Callable[[], bool],
        find: FindConnections,
        events: EventStream,
    ) -> None:
        self._kind = kind
        self._port = port
        self._make_handshake = make_handshake
        self._requires_password = requires_password
        self._find = find
        self._events = events
        #: The handshakes in progress, and the connections that were refused and are not closed yet; the oldest first.
        self._handshakes: dict[trio.CancelScope, None] = {}
        self._refused: dict[trio.CancelScope, None] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Connections that have asked for their stream continue: their clients serve them."""
        names = self._port.names
        self._events.publish(FrontListening(front=self._kind, addresses=names))
        others = tuple(format_address(host, port) for host, port in self._port.bound if not is_loopback(host))
        if others:
            self._events.publish(
                FrontOpenToOthers(front=self._kind, addresses=others, requires_password=self._requires_password())
            )
        async with trio.open_nursery() as nursery:

            def take(accepted: socket.socket, _address: object) -> None:
                accepted.setblocking(False)
                close_in_children(accepted)
                nursery.start_soon(self._serve, trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))

            what = f"the front {self._kind} at {', '.join(names)}"
            takes = dict.fromkeys(self._port.listeners, take)
            accept = partial(accept_sockets, takes, events=self._events, what=what)
            await nursery.start(accept)
            task_status.started()

    async def _serve(self, local: trio.SocketStream) -> None:
        """Serve one connection, until it is passed on or closed. Does not raise, so that others are not affected."""
        try:
            tune_socket(local.socket, user_timeout=False)
            handshake = self._make_handshake()
            wanted = await self._handshake(local, handshake)
            if wanted is None:
                return
            found = self._find(wanted)
            if found is None:
                self._publish_refusal(local, "this forward does not publish this host and port", str(wanted))
                await self._refuse(local, handshake.not_published())
                return
            found.connections.serve_answered(local, handshake, found.port)
        except Exception as exc:  # noqa: BLE001
            self._events.publish(unexpected_failure("front", exc))
            abort_socket(local)
        except BaseException:  # cancelled
            abort_socket(local)
            raise

    async def _handshake(self, local: trio.SocketStream, handshake: FrontHandshake) -> HostPort | None:
        """Return the host and port that the application wants; None if the connection was closed."""
        while len(self._handshakes) + len(self._refused) >= MAX_HANDSHAKES:
            ending = self._refused or self._handshakes
            oldest = next(iter(ending))
            del ending[oldest]
            oldest.cancel()
        with trio.move_on_after(HANDSHAKE_SECONDS) as scope:
            self._handshakes[scope] = None
            try:
                return await self._receive_request(local, handshake)
            except FrontRefusal as exc:
                refusal = exc
            except (OSError, trio.BrokenResourceError):
                abort_socket(local)
                return None
            finally:
                self._handshakes.pop(scope, None)
        if scope.cancelled_caught:
            self._publish_refusal(local, "the application has not sent its request in time")
            abort_socket(local)
            return None
        self._publish_refusal(local, str(refusal))
        await self._refuse(local, refusal.reply)
        return None

    async def _refuse(self, local: trio.SocketStream, reply: bytes) -> None:
        """Send a refusal, and close the connection. It is reset if there are too many others."""
        with trio.CancelScope() as scope:
            self._refused[scope] = None
            try:
                await close_after(local, reply)
            finally:
                self._refused.pop(scope, None)

    async def _receive_request(self, local: trio.SocketStream, handshake: FrontHandshake) -> HostPort | None:
        """Receive exactly the bytes of the handshake, and return the host and port that the application wants. If it
        has closed the connection, close this end as well, and return None.

        Raises:
            FrontRefusal, OSError, trio.BrokenResourceError: see `_handshake`.
        """
        while True:
            # What follows the handshake is for the target, and stays in the socket.
            data = await local.socket.recv(_PEEK_BYTES, socket.MSG_PEEK)
            if not data:
                abort_socket(local)
                return None
            step = handshake.receive_untrusted(data)
            await local.socket.recv(step.consumed)
            if step.reply:
                await local.send_all(step.reply)
            if step.wanted is not None:
                return step.wanted

    def _publish_refusal(self, local: trio.SocketStream, detail: str, wanted: str = "") -> None:
        try:
            name = local.socket.getpeername()
        except OSError:
            name = ""
        peer = format_address(*name[:2]) if isinstance(name, tuple) else "unix"
        self._events.publish(FrontRequestRefused(front=self._kind, peer=peer, wanted=wanted, detail=detail))
