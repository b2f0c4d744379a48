"""For asyncio programs: connections to a target, and local ports that lead to it.

A thread of the process does the work (see `hybridrelay.open_socket`), so nothing here blocks the event loop. All
coroutines can be cancelled at any time: opening then stops, and nothing stays open. They work with any event loop for
asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl as _ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar, overload

from .client import BackgroundForward, ClientConfig, LocalAddress
from .client.embedding.background import abandon, background
from .client.embedding.shared import as_config, check_port, check_timeout, open_in_background
from .client.embedding.sockets import close_socket
from .security import ConnectionString

__all__ = ["open_connection", "open_forward", "open_socket"]

T = TypeVar("T")


async def open_socket(
    config: ClientConfig | ConnectionString | str, *, port: int | None = None, timeout: float | None = None
) -> socket.socket:
    """Return a connected, non-blocking socket that leads to the target, as for ``loop.create_connection(sock=...)``.

    Like `hybridrelay.open_socket`, which describes what the socket does, the arguments and the errors.

    Raises:
        HybridRelayError, OSError, ValueError: as `hybridrelay.open_socket`.

    If cancelled, the connector abandons its attempt to connect, and nothing stays open.
    """
    config, port, timeout = as_config(config), check_port(port), check_timeout(timeout)
    thread = background()
    opening = thread.call(partial(open_in_background, thread, config, port, timeout), dispose=close_socket)
    sock = await _result(opening, close_socket)
    sock.setblocking(False)
    return sock


async def open_connection(
    config: ClientConfig | ConnectionString | str,
    *,
    port: int | None = None,
    timeout: float | None = None,
    limit: int = 65536,
    ssl: _ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a reader and a writer for a connection to the target, as `asyncio.open_connection` does.

    ``writer.write_eof()`` ends only the sending direction. If the target or the session fails, reading raises
    `ConnectionResetError`; it never returns an end of file that the target has not sent. Close the writer, even if a
    task that uses it is cancelled.

    Args:
        config: an application's connection string, as text or parsed; or a `ClientConfig` with one.
        port: which port of the target, if the hybrid connection has several. None means the first one.
        timeout: how long opening may take, in seconds, without the TLS handshake with the target; see
            `hybridrelay.open_socket`.
        limit: the size of the reader's buffer, in bytes; see `asyncio.open_connection`.
        ssl: if the target speaks TLS from the beginning: the context for it. This is the target's own TLS, inside of
            that between client and connector.
        server_hostname: the name of the target in its certificate. Needed with `ssl`.

    Raises:
        HybridRelayError, OSError, ValueError: as `hybridrelay.open_socket`.
        ssl.SSLError: the TLS handshake with the target failed.

    If cancelled, nothing stays open.
    """
    sock = await open_socket(config, port=port, timeout=timeout)
    loop = asyncio.get_running_loop()
    reader, protocol = asyncio.StreamReader(limit=limit, loop=loop), None

    def make_protocol() -> asyncio.StreamReaderProtocol:
        nonlocal protocol
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        return protocol

    try:
        transport, _ = await loop.create_connection(
            make_protocol, sock=sock, ssl=ssl, server_hostname=server_hostname
        )
    except BaseException:
        if protocol is None:
            sock.close()
        else:
            # asyncio has the socket and closes it. If it were closed here, asyncio might still wait for its number,
            # and then wait for ever for the next socket that has this number.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        raise
    assert protocol is not None
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


@overload
def open_forward(
    config: ClientConfig | ConnectionString | str, *, listen: tuple[str, int] = ("127.0.0.1", 0)
) -> AbstractAsyncContextManager[tuple[str, int]]: ...


@overload
def open_forward(
    config: ClientConfig | ConnectionString | str, *, listen: str
) -> AbstractAsyncContextManager[str]: ...


def open_forward(
    config: ClientConfig | ConnectionString | str, *, listen: LocalAddress = ("127.0.0.1", 0)
) -> AbstractAsyncContextManager[tuple[str, int]] | AbstractAsyncContextManager[str]:
    """``async with open_forward(text) as (host, port)``: a local port that leads to the target.

    For libraries that take an address. Like `hybridrelay.forward_in_thread`, which describes the arguments, and who
    can connect to the address. The forward ends with the block: connections that are open then have one second to
    finish, and are reset after that. If the task is cancelled during that second, they are reset immediately.

    Raises:
        HybridRelayError, OSError, ValueError: as `hybridrelay.forward_in_thread`, before the block runs. An error
            that ends the forward later is raised at the end of the block, unless the block itself raises.

    If cancelled while it starts, nothing stays open.
    """
    return _open_forward(config, listen)  # type: ignore[return-value]  # the address is of the type of `listen`


@asynccontextmanager
async def _open_forward(
    config: ClientConfig | ConnectionString | str, listen: LocalAddress
) -> AsyncIterator[LocalAddress]:
    forward = BackgroundForward(config, listen)
    address = await _result(forward.start(), forward.dispose)
    try:
        yield address
    except BaseException:
        await _result(forward.stop(), forward.dispose)
        raise
    failure = await _result(forward.stop(), forward.dispose)
    if failure is not None:
        raise failure


async def _result(future: Future[T], dispose: Callable[[T], None]) -> T:
    """Wait for a call in the background thread, without blocking the event loop. Cancelling this cancels the call."""
    try:
        return await asyncio.wrap_future(future)
    except BaseException:
        abandon(future, dispose)
        raise
