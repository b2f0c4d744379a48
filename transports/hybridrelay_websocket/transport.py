"""The transport: outer TLS where the port has it, the HTTP front, the handshake, the stream."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Awaitable, Callable

import trio

from hybridrelay.abc import AcceptOptions, ConnectOptions, Port, Purpose, Route, Transport
from hybridrelay.errors import HybridRelayError, TransportError
from hybridrelay.streams import TLSStream
from hybridrelay.streams.sockets import tune_stream

from .front import serve_http
from .handshake import handshake_as_client
from .stream import WebSocketStream

__all__ = ["HTTP", "HTTPS", "WebSocketTransport"]

_ALL = frozenset(Purpose)
HTTP = Port("http", 80, _ALL)
HTTPS = Port("https", 443, _ALL, outer_tls=True)


class WebSocketTransport(Transport):
    """All purposes share one port: HTTPS preferred, then HTTP."""

    name = "websocket"
    routes = (
        Route("wss", 20, dict.fromkeys(Purpose, HTTPS)),
        Route("ws", 30, dict.fromkeys(Purpose, HTTP)),
    )

    async def connect(self, options: ConnectOptions) -> trio.abc.HalfCloseableStream:
        """Dial, outer TLS if asked for, upgrade. See `Transport.connect`."""
        raw: trio.abc.Stream = await options.dial(options.host, options.port)
        try:
            tune_stream(raw)
            stream = raw
            if options.outer_tls:
                context = options.ssl_context or _default_client_context()
                tls = await _outer_tls(raw, context, server_hostname=options.host)
                if options.on_outer_certificate is not None:
                    options.on_outer_certificate(tls.getpeercert(binary_form=True) or b"")
                stream = tls
            received = await handshake_as_client(stream, _host_header(options))
        except BaseException:
            await trio.aclose_forcefully(raw)
            raise
        return WebSocketStream(stream, client=True, received=received)

    async def accept(self, stream: trio.SocketStream, options: AcceptOptions) -> trio.abc.HalfCloseableStream | None:
        """Outer TLS if the port has it, then whatever HTTP asks for. See `Transport.accept`."""
        accepted: WebSocketStream | None = None
        try:
            inner: trio.abc.Stream = stream
            if options.port.outer_tls:
                if options.ssl_context is None:
                    raise ValueError(f"port {options.port.name} needs an outer certificate")
                inner = await _outer_tls(
                    stream, options.ssl_context, server_hostname=None, before_answer=options.before_handshake
                )
            upgraded = await serve_http(inner)
            if upgraded is not None:
                accepted = WebSocketStream(upgraded.stream, client=False, received=upgraded.received)
        finally:
            if accepted is None:
                await trio.aclose_forcefully(stream)
        return accepted


async def _outer_tls(
    stream: trio.abc.Stream,
    context: ssl.SSLContext,
    *,
    server_hostname: str | None,
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
    except (HybridRelayError, trio.BrokenResourceError, ValueError) as exc:  # ValueError: no SNI can carry the name
        raise TransportError(f"outer TLS: {exc}") from exc
    return tls


@functools.cache
def _default_client_context() -> ssl.SSLContext:
    """Verifies nothing: the relay is verified inside, and an intercepting proxy out here sees ciphertext only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _host_header(options: ConnectOptions) -> str:
    # As browsers do: without the final dot of an absolute name, and without the zone of an IPv6 address.
    host = options.host.partition("%")[0].removesuffix(".")
    host = f"[{host}]" if ":" in host else host
    default = (HTTPS if options.outer_tls else HTTP).default
    return host if options.port == default else f"{host}:{options.port}"
