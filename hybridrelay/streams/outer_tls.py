"""The outer TLS, which middleboxes expect in a connection to port 443.

Security does not depend on it, because everything secret is sent over another TLS connection inside it. Therefore the
certificate is not verified, unless secret header fields are sent (`HttpOptions`). The outer TLS is below the
transport: the code that dials or accepts a connection adds it before it passes the stream to the transport.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Awaitable, Callable

import trio

from ..errors import HybridRelayError, TransportError
from .tls import TLSStream

__all__ = ["accept_outer_tls", "connect_outer_tls"]


async def connect_outer_tls(
    stream: trio.abc.Stream, host: str, *, context: ssl.SSLContext | None = None
) -> TLSStream:
    """Do the client's side of the outer handshake.

    Args:
        stream: the connection.
        host: the relay's name, sent as SNI.
        context: None means one that verifies nothing.

    Raises:
        TransportError: the handshake failed.

    The caller sets the deadline. On every exception, including cancellation, the stream is closed.
    """
    return await _handshake(stream, context or _client_context(), server_hostname=host)


async def accept_outer_tls(
    stream: trio.abc.Stream,
    context: ssl.SSLContext,
    *,
    before_answer: Callable[[], Awaitable[None]] | None = None,
) -> TLSStream:
    """Do the server's side of the outer handshake; see `TLSStream` for `before_answer`.

    Raises:
        TransportError: the handshake failed.

    The caller sets the deadline. On every exception, including cancellation, the stream is closed.
    """
    return await _handshake(stream, context, before_answer=before_answer)


async def _handshake(
    stream: trio.abc.Stream,
    context: ssl.SSLContext,
    *,
    server_hostname: str | None = None,
    before_answer: Callable[[], Awaitable[None]] | None = None,
) -> TLSStream:
    try:
        tls = TLSStream(
            stream,
            context,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
            before_answer=before_answer,
        )
        await tls.do_handshake()
    except BaseException as exc:
        await trio.aclose_forcefully(stream)
        # ValueError: the name cannot be sent as SNI.
        if isinstance(exc, (HybridRelayError, trio.BrokenResourceError, ValueError)):
            raise TransportError(f"outer TLS: {exc}") from exc
        raise
    return tls


@functools.cache
def _client_context() -> ssl.SSLContext:
    """Return a context that verifies nothing. The relay is verified by the TLS inside, of which an interceptor sees
    only ciphertext."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
