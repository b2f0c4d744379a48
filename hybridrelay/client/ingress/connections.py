"""One TCP connection of an application: it gets one stream, and the two are joined to their end."""

from __future__ import annotations

import trio

from ..._log_limit import LimitedLogger
from ..._nursery import FlatNursery
from ...errors import HybridRelayError, StreamRefused
from ...mux import MuxStream, bridge
from ...protocol.reasons import Reason
from ...streams.sockets import abort_stream, reset_on_close, tune_socket, wait_reset
from ..client import Client

__all__ = ["serve_connection"]

logger = LimitedLogger("hybridrelay.client")

#: How long the first attempt to open a session may take for an application's connection (seconds). Only a patience
#: that is greater makes a connection wait longer than this. Database drivers give up after 15 to 60 s.
OPEN_SECONDS = 30.0


async def serve_connection(client: Client, local: trio.SocketStream) -> None:
    """One connection of an application. Whatever goes wrong ends it, and it alone."""
    try:
        await _forward(client, local)
    except Exception:
        # A bug of ours. It must not end the forward for all others, and it has to be logged.
        logger.exception("%s: a connection failed unexpectedly", client.connection)
        await abort_stream(local)


async def _forward(client: Client, local: trio.SocketStream) -> None:
    tune_socket(local.socket, user_timeout=False)
    reset_on_close(local, True)
    try:
        stream = await _open_stream_unless_reset(client, local)
    except StreamRefused as exc:
        logger.warning("%s: connection reset: %s", client.connection, exc)
        await abort_stream(local)
        return
    except BaseException:
        await abort_stream(local)
        raise
    if stream is None:
        logger.debug("%s: the application reset its connection before there was a session", client.connection)
        await abort_stream(local)
        return

    async def reopen(refusal: StreamRefused) -> MuxStream:
        if not client.may_try_again(refusal):
            raise refusal
        return await _open_stream(client)

    result = await bridge(stream, local, reopen=reopen)
    if result.refusal is not None:
        logger.warning("%s: connection reset: %s", client.connection, result.refusal)
    logger.debug("%s: %s (%d sent, %d received)", client.connection, result.reason.slug, result.sent, result.received)


async def _open_stream_unless_reset(client: Client, local: trio.SocketStream) -> MuxStream | None:
    """As `_open_stream`; None if the application resets its connection while that waits for a session."""
    if client.is_connected:  # nothing to wait for
        return await _open_stream(client)
    stream: MuxStream | None = None
    async with FlatNursery() as nursery:

        async def watch() -> None:
            await wait_reset(local)
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        stream = await _open_stream(client)
        nursery.cancel_scope.cancel()
    return stream


async def _open_stream(client: Client) -> MuxStream:
    """A stream that the connector has been asked for. Raises StreamRefused."""
    try:
        with trio.fail_after(max(OPEN_SECONDS, client.open_patience)):
            return await client.open_stream(wait_opened=False)
    except StreamRefused:
        raise
    except trio.TooSlowError as exc:
        raise StreamRefused("no session in time", reason=Reason.PEER_SILENT) from exc
    except HybridRelayError as exc:
        raise StreamRefused(str(exc), reason=exc.reason) from exc
    except trio.ClosedResourceError as exc:
        raise StreamRefused(str(exc), reason=Reason.GOING_AWAY) from exc
