"""Local ports that look like the on-premises host: every TCP connection becomes one stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from .._accepting import serve_listeners
from .._listening import explain_listen_error, open_listeners
from .._log_limit import LimitedLogger
from .._nursery import FlatNursery, wait_stop
from ..connectivity.backoff import Backoff
from ..connectivity.endpoint import format_address
from ..connectivity.refusals import is_final
from ..connectivity.repeated_failure import RepeatedFailure
from ..errors import ConfigurationError, HybridRelayError, RelayIdentityError, StreamRefused
from ..events import logged_events
from ..mux import MuxStream, bridge
from ..protocol.reasons import Reason
from ..security import bracketed
from ..streams.sockets import abort_stream, reset_on_close, tune_socket, wait_reset
from .client import Client

logger = LimitedLogger("hybridrelay.client")

#: How long the first attempt to open a session may take for an application's connection (seconds). Only a patience
#: that is greater makes a connection wait longer than this. Database drivers give up after 15 to 60 s.
OPEN_SECONDS = 30.0


async def run_forward(
    client: Client,
    listen: Sequence[tuple[str, int]],
    *,
    stop: trio.Event | None = None,
    grace: float = 0.0,
    task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen, and forward every connection through `client` until cancelled or stopped.

    `task_status.started` gives the addresses that are bound, port 0 replaced, once the first attempt to connect has
    ended one way or the other. Whenever the session is lost it is opened again, for as long as the key is valid.

    Where the target or the tunnel breaks, the application's connection is reset; it never sees a false end of file.

    Args:
        client: from `open_client`.
        listen: (host, port); port 0 for any free one.
        stop: set it for a graceful end: nothing new is accepted, and connections that are open have up to `grace`
            seconds to finish.

    Raises:
        ConfigurationError: an address cannot be bound.
        RelayIdentityError: at the first attempt to connect, what answered was not the relay.
        AuthorizationError: every relay says that the key or the hybrid connection is not valid, and nothing is open.
    """
    listeners: list[trio.SocketListener] = []
    cut_off = 0

    async def serve(local: trio.SocketStream) -> None:
        nonlocal cut_off
        try:
            await _serve(client, local)
        except trio.Cancelled:
            cut_off += 1
            raise

    async with FlatNursery() as nursery:
        try:
            for host, port in listen:
                listeners += await _listen(host, port)
            await nursery.start(_keep_connected, client)
            bound = [listener.socket.getsockname()[:2] for listener in listeners]
            addresses = ", ".join(format_address(*address) for address in bound)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    accept = partial(
                        serve_listeners,
                        serve,
                        listeners,
                        handler_nursery=connections,
                        events=logged_events(),
                        what=f"{client.connection} at {addresses}",
                    )
                    await accepting.start(accept)
                    task_status.started(bound)
                    await wait_stop(stop)
                    accepting.cancel_scope.cancel()
                connections.cancel_scope.deadline = trio.current_time() + grace
            if cut_off:
                logger.warning("%s: connections that were still open, and were reset: %d", client.connection, cut_off)
            nursery.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.socket.close()


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await open_listeners(host, port, logger=logger)
    except OSError as exc:
        otherwise = "or choose another --listen address, port 0 for any that is free"
        text, remedy = explain_listen_error(exc, port, otherwise=otherwise)
        raise ConfigurationError(f"cannot listen on {bracketed(host)}:{port}: {text}", remedy=remedy) from exc


async def _keep_connected(client: Client, *, task_status: trio.TaskStatus[None]) -> None:
    """Have a session at all times, so that no application waits for one.

    Raises:
        AuthorizationError: every relay says that the key or the hybrid connection is not valid, and nothing is open.
            A closed port is clearer to an application than one that accepts and resets for ever. Other refusals that
            look final may be temporary: an identity can be admitted again, and another connector may accept it.
        RelayIdentityError: at the start, what answers is not the relay.
    """
    backoff = Backoff()
    failure = RepeatedFailure()
    first = True
    while True:
        began = trio.current_time()
        try:
            session = await client.connect(patience=0)
        except HybridRelayError as exc:
            if is_final(exc) and (first or not client.open_streams):
                raise
            if first and isinstance(exc, RelayIdentityError):
                raise
            text = failure.describe(exc)
            logger.log(failure.level(trio.current_time()), "%s", text)
            wait = backoff.next_wait(took_seconds=trio.current_time() - began)
        else:
            failure.succeeded()
            if first:
                first = False
                task_status.started()
            await session.wait_leaving()
            if (outcome := session.outcome) is not None:
                logger.warning(
                    "%s: the session ended: %s", client.connection, outcome.text or outcome.reason.describe
                )
            else:
                logger.info("%s: the session takes no further connections, opening another", client.connection)
            backoff.succeeded(held_seconds=trio.current_time() - began)
            wait = backoff.next_wait()
        if first:
            first = False
            task_status.started()
        await trio.sleep(wait)


async def _serve(client: Client, local: trio.SocketStream) -> None:
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
