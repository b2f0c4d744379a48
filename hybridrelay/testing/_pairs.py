"""Connecting a transport to itself, over real sockets on this machine."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import trio

from ..abc import Address, Binding, Connection, Dialer, Incoming, Listener, Port, Purpose, Route, Transport
from ..streams.listening import StreamListener, remote_of
from ..streams.outer_tls import accept_outer_tls, connect_outer_tls
from ..streams.unix_sockets import connect_unix_socket

HOST = "127.0.0.1"

#: Inserts something into a connection that was just dialed, such as a middlebox.
Insert = Callable[[trio.SocketStream], Awaitable[trio.abc.HalfCloseableStream]]


async def connect_pair(
    transport: Transport,
    route: Route,
    *,
    purpose: Purpose = Purpose.DATA,
    insert: Insert | None = None,
    watch: Callable[[trio.abc.Stream], trio.abc.Stream] | None = None,
) -> tuple[Connection, Connection]:
    """Return the client's and the server's end of a new connection. Its listener is closed again.

    Args:
        transport: the transport to use.
        route: the route to use.
        purpose: determines the port.
        insert: inserts something between the two ends, below any outer TLS.
        watch: wraps the stream that the transport's client gets from its dialer.
    """
    port = route.port_for(purpose)
    async with listening(transport, port) as listener:
        accepted: list[Connection | None] = []

        async def accept() -> None:
            accepted.append(await (await accept_incoming(listener, port)).handshake())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            dialer = make_dialer(port, listener, insert=insert, watch=watch)
            client = await transport.connect(address_of(port, listener), dialer)
    server = accepted.pop()
    if server is None:
        await trio.aclose_forcefully(client.stream)
        raise AssertionError("connect returned a connection that the listener has answered and closed")
    return client, server


async def stream_pair(
    transport: Transport, route: Route, *, insert: Insert | None = None
) -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
    """Return the streams of `connect_pair`."""
    client, server = await connect_pair(transport, route, insert=insert)
    return client.stream, server.stream


@contextlib.asynccontextmanager
async def listening(transport: Transport, port: Port) -> AsyncIterator[Listener]:
    """Open a listener as the relay would for this port, but on a free port number or at a free path."""
    with tempfile.TemporaryDirectory(prefix="hybridrelay-") as directory:
        binding = Binding("", 0, Path(directory, "relay.sock")) if port.local else Binding(HOST, 0)
        async with await transport.listen(binding) as listener:
            yield listener


async def accept_incoming(listener: Listener, port: Port) -> Incoming:
    """Return the next connection before its handshake, inside outer TLS if the port has it."""
    if not port.outer_tls:
        return await listener.accept()
    assert isinstance(listener, StreamListener), "a port with outer TLS needs a StreamListener"
    stream = await listener.accept_stream()
    return listener.incoming(await add_outer_tls(stream, port), remote_of(stream))


async def add_outer_tls(stream: trio.SocketStream, port: Port) -> trio.abc.Stream:
    """Add outer TLS to an accepted stream if the port has it. Raises what `accept_outer_tls` raises."""
    return await accept_outer_tls(stream, outer_context()) if port.outer_tls else stream


def address_of(port: Port, listener: Listener) -> Address:
    """Return the address for connecting to a listener as if it were `port`."""
    return Address(HOST, listener.bound[0].port, port.outer_tls)


def make_dialer(
    port: Port,
    listener: Listener,
    *,
    insert: Insert | None = None,
    watch: Callable[[trio.abc.Stream], trio.abc.Stream] | None = None,
) -> Dialer:
    """Return a dialer that reaches `listener`. Its "command" leads to the Unix socket of a local port."""

    async def finish(stream: trio.SocketStream) -> trio.abc.Stream:
        inserted = stream if insert is None else await insert(stream)
        dressed: trio.abc.Stream = await connect_outer_tls(inserted, HOST) if port.outer_tls else inserted
        return dressed if watch is None else watch(dressed)

    async def tcp(host: str, number: int) -> trio.abc.Stream:
        return await finish(await trio.open_tcp_stream(host, number))

    async def process() -> trio.abc.HalfCloseableStream:
        stream = await finish(await dial_raw(listener))
        assert isinstance(stream, trio.abc.HalfCloseableStream)
        return stream

    return Dialer(tcp, process=process) if port.local else Dialer(tcp)


async def dial_raw(listener: Listener) -> trio.SocketStream:
    """Return a connection to a listener, with nothing added to it."""
    binding = listener.bound[0]
    if binding.path is not None:
        return await connect_unix_socket(binding.path)
    return await trio.open_tcp_stream(binding.host, binding.port)


@functools.cache
def outer_context() -> ssl.SSLContext:
    """Return a server context with a new self-signed certificate. No transport may depend on trusting it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "transport conformance")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "outer.pem")
        file.write_bytes(pem)
        context.load_cert_chain(file)
    return context
