"""Serves the TCP connections of applications: each gets one stream, and a bridge moves bytes between the two."""

from __future__ import annotations

import trio

from ..._nursery import FlatNursery
from ..._unexpected_failure import unexpected_failure
from ...connectivity.endpoint import format_address
from ...errors import HybridRelayError, StreamRefused
from ...events.client import StreamFailed, StreamRequested
from ...events.endpoint import StreamClosed
from ...mux import BridgeProgress, MuxStream, bridge
from ...protocol.reasons import Reason
from ...streams.sockets import abort_stream, reset_on_close, tune_socket, wait_reset
from ..client import Client
from ..outcome import Disconnected, Ending, outcome_of

__all__ = ["Connections"]

#: The longest time that an application's connection waits for its stream, unless the client's `open_patience` is
#: longer (seconds). Database drivers give up after 15 to 60 s.
OPEN_SECONDS = 30.0


class Connections:
    """Serves connections of applications, for every kind of ingress that has TCP connections.

    Args:
        client: opens the streams. Events are published to its event stream.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def serve(self, local: trio.SocketStream) -> None:
        """Serve one connection until it ends. An error ends this connection only, and is not raised.

        Publishes one event at the beginning and exactly one at the end. The second one may be published after this
        has returned: when the connector has acknowledged everything or the session ends, and after 5 seconds at the
        latest. If the target or the tunnel fails, the connection is reset; the application never sees an end of file
        that the target did not send. If cancelled, the connection is reset, too.
        """
        served = _Connection(self._client, local)
        await served.run()


class _Connection:
    """One connection of an application."""

    def __init__(self, client: Client, local: trio.SocketStream) -> None:
        self._client = client
        self._local = local
        self._request = client.requests.begin(self._address)
        #: The bytes that the bridge has moved so far; None while there is no stream.
        self._progress: BridgeProgress | None = None

    def _address(self) -> str:
        """Return the address of the application."""
        return format_address(*self._local.socket.getpeername()[:2])

    async def run(self) -> None:
        self._client.events.publish(StreamRequested(connection=self._client.connection, activity_id=self._request.id))
        refusal: StreamRefused | None = None
        # The outcome if the forward stops, and this task is cancelled, before there is a stream.
        ended = Disconnected("broken", Ending.LOST, Ending.LOST, Reason.CANCELLED)
        try:
            if not await self._forward():
                reset = Ending.RESET_BY_APPLICATION
                ended = Disconnected("broken", reset, reset, Reason.CANCELLED)
        except StreamRefused as exc:
            refusal = exc
        except Exception as exc:  # noqa: BLE001
            # A bug. It must not affect other connections, and has to be logged.
            name = self._client.connection
            self._client.events.publish(unexpected_failure("stream", exc, name))
            refusal = StreamRefused("internal error", reason=Reason.INTERNAL_ERROR)
            await abort_stream(self._local)
        finally:
            try:
                if self._progress is None:  # otherwise the bridge has closed it
                    await abort_stream(self._local)
            finally:
                seconds = trio.current_time() - self._request.began
                if self._progress is None:
                    self._publish_end(ended, refusal, seconds)
                else:
                    self._progress.when_settled(lambda: self._publish_end(ended, refusal, seconds))

    def _publish_end(self, ended: Disconnected, refusal: StreamRefused | None, seconds: float) -> None:
        name = self._client.connection
        sent, received, stream_id = 0, 0, ""
        if self._progress is not None:
            stream_id = "" if self._progress.stream is None else self._client.stream_id_of(self._progress.stream)
            bridged = self._progress.so_far()
            ended, sent, received = outcome_of(bridged), bridged.sent, bridged.received
            if bridged.refusal is not None:
                refusal = StreamRefused(bridged.refusal, reason=bridged.reason)
        self._client.requests.end(self._request, ended.reason if refusal is None else refusal.reason)
        if refusal is not None:
            event: StreamFailed | StreamClosed = StreamFailed(
                connection=name,
                activity_id=self._request.id,
                reason=refusal.reason,
                detail=str(refusal),
                seconds=seconds,
                stream_id=stream_id,
            )
        else:
            event = StreamClosed(
                connection=name,
                activity_id=self._request.id,
                outcome=ended.kind,
                reason=ended.reason,
                to_target=str(ended.to_target),
                to_client=str(ended.to_client),
                bytes_to_target=sent,
                bytes_to_client=received,
                seconds=seconds,
                stream_id=stream_id,
            )
        self._client.events.publish(event)

    async def _forward(self) -> bool:
        """Open a stream and bridge it. Returns False if the application reset its connection before there was a
        session."""
        tune_socket(self._local.socket, user_timeout=False)
        reset_on_close(self._local, True)
        stream = await self._open_stream_unless_reset()
        if stream is None:
            return False

        async def reopen(refusal: StreamRefused) -> MuxStream:
            if not self._client.may_try_again(refusal):
                raise refusal
            return await self._open_stream()

        self._progress = BridgeProgress()
        await bridge(stream, self._local, reopen=reopen, progress=self._progress)
        return True

    async def _open_stream_unless_reset(self) -> MuxStream | None:
        """Like `_open_stream`, but None if the application resets its connection during the wait for a session."""
        if self._client.is_connected:  # nothing to wait for
            return await self._open_stream()
        stream: MuxStream | None = None
        async with FlatNursery() as nursery:

            async def watch() -> None:
                await wait_reset(self._local)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            stream = await self._open_stream()
            nursery.cancel_scope.cancel()
        return stream

    async def _open_stream(self) -> MuxStream:
        """Return a stream that the connector has been asked to open.

        Raises:
            StreamRefused: no stream could be requested; `reason` says why.
        """
        try:
            with trio.fail_after(max(OPEN_SECONDS, self._client.open_patience)):
                stream = self._request.stream = await self._client.request_stream(wait_opened=False)
                return stream
        except StreamRefused:
            raise
        except trio.TooSlowError as exc:
            raise StreamRefused("no session in time", reason=Reason.PEER_SILENT) from exc
        except HybridRelayError as exc:
            raise StreamRefused(str(exc), reason=exc.reason) from exc
        except trio.ClosedResourceError as exc:
            raise StreamRefused(str(exc), reason=Reason.GOING_AWAY) from exc
