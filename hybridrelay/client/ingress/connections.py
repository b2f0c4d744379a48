"""Serves the TCP connections of applications: each gets one stream, and a bridge moves bytes between the two."""

# This module is long because one class has the three ways in which a connection gets its stream, and all its endings.

from __future__ import annotations

import socket

import trio

from ..._nursery import FlatNursery
from ..._shortage import socket_shortage_of
from ..._unexpected_failure import unexpected_failure
from ...connectivity.endpoint import format_address
from ...errors import ConfigurationError, HybridRelayError, StreamRefused
from ...events.client import StreamFailed, StreamRequested
from ...events.endpoint import StreamClosed
from ...mux import BridgeProgress, Bridges, MuxStream
from ...protocol.reasons import Reason
from ...streams.forking import close_in_children
from ...streams.loopback import loopback_pair
from ...streams.sockets import abort_socket, reset_on_close, tune_socket, wait_reset
from ..client import Client
from ..outcome import Disconnected, Ending, outcome_of
from .handshake import FrontHandshake
from .replies import REPLY_SECONDS, close_after

__all__ = ["Connections"]

#: The longest time that an application's connection waits for its stream, unless the client's `open_patience` is
#: longer (seconds). Database drivers give up after 15 to 60 s.
OPEN_SECONDS = 30.0


class Connections:
    """Serves connections of applications, for every kind of ingress that has TCP connections.

    Args:
        client: opens the streams. Events are published to its event stream.
        bridges: the bridges between streams and connections. When they are cut off, the connections are reset.
        nursery: runs tasks for connections that have to wait for a session.
    """

    def __init__(self, client: Client, bridges: Bridges, nursery: trio.Nursery) -> None:
        self._client = client
        self._bridges = bridges
        self._nursery = nursery
        #: How many connections were cut off while they waited for a session.
        self._waiting_cut_off = 0

    @property
    def cut_off(self) -> int:
        """How many connections were cut off, because the nursery or the bridges were cancelled."""
        return self._waiting_cut_off + self._bridges.cut_off_count

    def serve(self, local: trio.SocketStream, port: int | None = None) -> None:
        """Begin to serve one connection, and return at once. An error ends this connection only, and is not raised.

        Args:
            local: the connection.
            port: which port of the target, if the hybrid connection has several; None: the first one.

        Publishes one event at the beginning and exactly one at the end. The second one may be published after the
        connection was closed: when the connector has acknowledged everything or the session ends, and after 5 seconds
        at the latest. If the target or the session fails, the connection is reset; the application never sees an end
        of file that the target did not send. If the nursery or the bridges are cancelled, it is reset, too.
        """
        served = _Connection(self._client, self._bridges, local, port)
        if not served.begin():
            self._nursery.start_soon(self._wait, served)

    def serve_answered(self, local: trio.SocketStream, handshake: FrontHandshake, port: int | None = None) -> None:
        """Begin to serve a connection of a front, and return at once.

        Like `serve`, but the application is told whether the connector has connected to the target. If not, it is
        told why, and the connection ends without a reset.

        Args:
            local: the connection.
            handshake: has received what the application wants.
            port: see `serve`.
        """
        self._nursery.start_soon(self._answer, _Connection(self._client, self._bridges, local, port), handshake)

    async def _answer(self, served: _Connection, handshake: FrontHandshake) -> None:
        is_cut_off = True
        try:
            await served.answer(handshake)
            is_cut_off = False
        finally:
            self._waiting_cut_off += is_cut_off

    async def connect(self, *, port: int | None = None, patience: float | None = None) -> socket.socket:
        """Open a stream, and return an ordinary TCP socket of this machine that is connected to the target.

        Args:
            port: see `serve`.
            patience: how long to wait for a session (seconds); see `Client.connect`.

        The same events are published, and the socket ends in the same ways, as for a connection that is served.

        Raises:
            StreamRefused: the target or the connector refused the stream; `reason` says which and why.
            HybridRelayError: no session could be opened (see `Client.connect`), or this machine has no descriptors,
                memory or ports left for a socket.
            ConfigurationError: this machine cannot connect to itself.

        If cancelled, the connector abandons its attempt to connect, too.
        """
        try:
            application, local = await loopback_pair()
        except OSError as exc:
            raise _no_socket(exc) from exc
        try:
            await _Connection(self._client, self._bridges, local, port).connect(patience)
        except BaseException:
            application.close()
            raise
        return application

    async def end_programs(self) -> None:
        """End all connections as if the applications had closed them now; see `Bridges.end_programs`."""
        await self._bridges.end_programs()

    def __len__(self) -> int:
        """Return how many connections with a stream have not ended."""
        return len(self._bridges)

    def take(self, accepted: socket.socket, port: int | None = None) -> None:
        """Serve a connection that was accepted as a blocking socket; see `serve`."""
        accepted.setblocking(False)
        close_in_children(accepted)
        self.serve(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)), port)

    async def _wait(self, served: _Connection) -> None:
        is_cut_off = True
        try:
            await served.wait()
            is_cut_off = False
        finally:
            self._waiting_cut_off += is_cut_off


def _no_socket(error: OSError) -> HybridRelayError:
    """Return the error for a machine on which no socket can be made."""
    shortage = socket_shortage_of(error)
    if shortage is not None:
        return HybridRelayError(
            f"this machine {shortage.text}", reason=Reason.OUT_OF_RESOURCES, remedy=shortage.remedy
        )
    return ConfigurationError(
        f"this machine cannot connect to itself over TCP: {error.strerror or error}",
        remedy="check that it has a loopback interface that is up, with the address 127.0.0.1 or ::1 (ip addr show "
        "lo), and that no firewall blocks it",
    )


class _Connection:
    """One connection of an application."""

    __slots__ = ("_bridges", "_client", "_local", "_port", "_progress", "_request")

    def __init__(self, client: Client, bridges: Bridges, local: trio.SocketStream, port: int | None) -> None:
        self._client = client
        self._bridges = bridges
        self._local = local
        self._port = port
        self._request = client.requests.begin(self._address, port)
        #: The bytes that the bridge has moved so far; None while there is no stream.
        self._progress: BridgeProgress | None = None

    def _address(self) -> str:
        """Return the address of the application; ``unix`` if it has connected to a Unix socket."""
        name = self._local.socket.getpeername()
        return format_address(*name[:2]) if isinstance(name, tuple) else "unix"

    def begin(self) -> bool:
        """Open a stream at once, if there is a session. Returns False if `wait` has to be called. Does not raise."""
        try:
            self._begin_request()
            stream = self._client.request_stream_nowait(port=self._port)
        except StreamRefused as exc:
            if self._client.may_try_again(exc):
                return False
            self._refused(exc)
        except Exception as exc:  # noqa: BLE001
            self._failed(exc)
        else:
            if stream is None:
                return False
            self._bridge(stream)
        return True

    async def connect(self, patience: float | None) -> None:
        """Open a stream, and begin to serve the connection when the connector has connected to the target.

        Raises:
            HybridRelayError: there is no stream. The connection was reset.
        """
        self._begin_request()
        try:
            stream = await self._client.request_stream(port=self._port, patience=patience)
        except trio.ClosedResourceError as exc:
            refusal = StreamRefused(str(exc), reason=Reason.GOING_AWAY)
            self._refused(refusal)
            raise refusal from exc
        except HybridRelayError as exc:
            refusal = exc if isinstance(exc, StreamRefused) else StreamRefused(str(exc), reason=exc.reason)
            self._refused(refusal)
            raise
        except Exception as exc:
            self._failed(exc)
            raise
        except BaseException:  # cancelled
            self._lost(Ending.RESET_BY_APPLICATION)
            raise
        self._bridge(stream)

    async def wait(self) -> None:
        """Wait for a session, open a stream, and start the bridge or refuse the connection."""
        opened = await self._opened()
        if isinstance(opened, StreamRefused):
            self._refused(opened)
        elif opened is not None:
            self._bridge(opened)

    async def answer(self, handshake: FrontHandshake) -> None:
        """Open a stream, and tell the application the result, in the protocol of a front."""
        self._begin_request()
        opened = await self._opened(wait_opened=True)
        if isinstance(opened, StreamRefused):
            self._publish_failure(opened, self._seconds)
            await close_after(self._local, handshake.failed(opened.reason, str(opened)))
        elif opened is not None:
            await self._tell_opened(opened, handshake.opened())

    async def _opened(self, *, wait_opened: bool = False) -> MuxStream | StreamRefused | None:
        """Wait for a session, and open a stream.

        Returns the stream; or the refusal, which the caller handles; or None if the connection ended for another
        reason, which was published."""
        try:
            stream = await self._open_stream_unless_reset(wait_opened=wait_opened)
        except StreamRefused as exc:
            return exc
        except Exception as exc:  # noqa: BLE001
            self._failed(exc)
            return None
        except BaseException:  # cancelled: the program stops
            self._lost(Ending.LOST)
            raise
        if stream is None:
            self._lost(Ending.RESET_BY_APPLICATION)
        return stream

    async def _tell_opened(self, stream: MuxStream, reply: bytes) -> None:
        self._client.requests.assign(self._request, stream)
        try:
            with trio.fail_after(REPLY_SECONDS):
                await self._local.send_all(reply)
        except (trio.BrokenResourceError, trio.TooSlowError):
            stream.reset(Reason.CANCELLED)
            self._lost(Ending.RESET_BY_APPLICATION)
        except BaseException:  # cancelled: the program stops
            stream.reset(Reason.CANCELLED)
            self._lost(Ending.LOST)
            raise
        else:
            self._bridge(stream)

    def _bridge(self, stream: MuxStream) -> None:
        """Move bytes between the connection and a stream. Does not raise."""
        self._client.requests.assign(self._request, stream)
        self._progress = progress = BridgeProgress()
        try:
            self._bridges.start(stream, self._local, reopen=self._reopen, progress=progress, over=self._over)
        except Exception as exc:  # noqa: BLE001 - a bug, or no memory
            self._progress = None
            stream.reset(Reason.INTERNAL_ERROR)
            self._failed(exc)

    async def _reopen(self, refusal: StreamRefused) -> MuxStream:
        refused = self._request.stream
        if not self._client.may_try_again(refusal) and (
            refused is None or not await self._client.find_other_connector(refusal, refused)
        ):
            raise refusal
        stream = await self._open_stream()
        self._client.requests.assign(self._request, stream)
        return stream

    def _begin_request(self) -> None:
        about = self._client.requests.about(self._request)
        self._client.events.publish(StreamRequested(activity_id=self._request.id, **about))
        tune_socket(self._local.socket, user_timeout=False)
        reset_on_close(self._local, on=True)

    # --- the end; exactly one of these is called

    def _refused(self, refusal: StreamRefused) -> None:
        """Reset the connection, because there is no stream."""
        abort_socket(self._local)
        self._publish_failure(refusal, self._seconds)

    def _failed(self, bug: Exception) -> None:
        """Report a bug, and reset the connection. A bug must not affect other connections."""
        self._report_bug(bug)
        self._refused(StreamRefused("internal error", reason=Reason.INTERNAL_ERROR))

    def _lost(self, ending: Ending) -> None:
        """The wait for a stream has ended without a result: the application has reset its connection, or the program
        stops."""
        abort_socket(self._local)
        self._publish_end(Disconnected("broken", ending, ending, Reason.CANCELLED), 0, 0, self._seconds)

    def _over(self, bug: Exception | None) -> None:
        """The bridge has ended, and has closed the connection."""
        progress, seconds = self._progress, self._seconds
        assert progress is not None
        if bug is not None:
            self._report_bug(bug)
            self._publish_failure(StreamRefused("internal error", reason=Reason.INTERNAL_ERROR), seconds)
            return

        def settled() -> None:
            bridged = progress.so_far()
            if bridged.refusal is not None:
                self._publish_failure(StreamRefused(bridged.refusal, reason=bridged.reason), seconds)
            else:
                self._publish_end(outcome_of(bridged), bridged.sent, bridged.received, seconds)

        progress.when_settled(settled)

    @property
    def _seconds(self) -> float:
        return trio.current_time() - self._request.began

    @property
    def _stream_id(self) -> str:
        stream = None if self._progress is None else self._progress.stream
        return "" if stream is None else self._client.stream_id_of(stream)

    def _report_bug(self, bug: Exception) -> None:
        self._client.events.publish(unexpected_failure("stream", bug, self._client.connection))

    def _publish_failure(self, refusal: StreamRefused, seconds: float) -> None:
        self._client.requests.end(self._request, refusal.reason)
        self._client.events.publish(
            StreamFailed(
                **self._client.requests.about(self._request),
                activity_id=self._request.id,
                reason=refusal.reason,
                detail=str(refusal),
                seconds=seconds,
                stream_id=self._stream_id,
            )
        )

    def _publish_end(self, ended: Disconnected, sent: int, received: int, seconds: float) -> None:
        self._client.requests.end(self._request, ended.reason)
        self._client.events.publish(
            StreamClosed(
                **self._client.requests.about(self._request),
                activity_id=self._request.id,
                outcome=ended.kind,
                reason=ended.reason,
                to_target=str(ended.to_target),
                to_client=str(ended.to_client),
                bytes_to_target=sent,
                bytes_to_client=received,
                seconds=seconds,
                stream_id=self._stream_id,
            )
        )

    # --- waiting for a session

    async def _open_stream_unless_reset(self, *, wait_opened: bool = False) -> MuxStream | None:
        """Like `_open_stream`, but None if the application resets its connection in the meantime."""
        if self._client.is_connected and not wait_opened:  # nothing to wait for
            return await self._open_stream()
        stream: MuxStream | None = None
        was_reset = False
        async with FlatNursery() as nursery:

            async def watch() -> None:
                nonlocal was_reset
                await wait_reset(self._local)
                was_reset = True
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            stream = await self._open_stream(wait_opened=wait_opened)
            nursery.cancel_scope.cancel()
        if was_reset and stream is not None:
            # The stream was opened at the same moment. The system reports a reset once, so a bridge would not learn
            # of it, and would pass on an end of file after the data that has arrived.
            stream.reset(Reason.CANCELLED)
            return None
        return stream

    async def _open_stream(self, *, wait_opened: bool = False) -> MuxStream:
        """Return a stream that the connector has been asked to open, or, with `wait_opened`, has opened.

        Raises:
            StreamRefused: there is no stream; `reason` says why.
        """
        try:
            with trio.fail_after(max(OPEN_SECONDS, self._client.open_patience)):
                return await self._client.request_stream(port=self._port, wait_opened=wait_opened)
        except StreamRefused:
            raise
        except trio.TooSlowError as exc:
            raise StreamRefused("no session in time", reason=Reason.PEER_SILENT) from exc
        except HybridRelayError as exc:
            raise StreamRefused(str(exc), reason=exc.reason) from exc
        except trio.ClosedResourceError as exc:
            raise StreamRefused(str(exc), reason=Reason.GOING_AWAY) from exc
