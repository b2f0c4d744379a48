"""Connecting a transport to itself."""

from __future__ import annotations

import datetime as dt
import functools
import ssl
import tempfile
from pathlib import Path

import trio

from ..abc import AcceptOptions, ConnectOptions, Dial, Port, Purpose, Route, Transport

HOST = "127.0.0.1"


async def connect_pair(
    transport: Transport, route: Route, *, purpose: Purpose = Purpose.DATA, dial: Dial = trio.open_tcp_stream
) -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
    """The client's stream and the server's, of a new connection through a listener of its own."""
    port = route.ports[purpose]
    [listener] = await trio.open_tcp_listeners(0, host=HOST)
    accepted: list[trio.abc.HalfCloseableStream | None] = []

    async def accept() -> None:
        accepted.append(await transport.accept(await listener.accept(), accept_options(port)))

    async with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            client = await transport.connect(connect_options(port, listener, dial))
    server = accepted.pop()
    if server is None:
        await trio.aclose_forcefully(client)
        raise AssertionError("accept answered a connection that connect takes for open")
    return client, server


def connect_options(port: Port, listener: trio.SocketListener, dial: Dial = trio.open_tcp_stream) -> ConnectOptions:
    """To connect to ``listener`` as if it were ``port``."""
    return ConnectOptions(HOST, listener.socket.getsockname()[1], port.outer_tls, dial)


def accept_options(port: Port) -> AcceptOptions:
    """To serve ``port``, with an outer certificate where it has outer TLS."""
    return AcceptOptions(port, _outer_context() if port.outer_tls else None)


@functools.cache
def _outer_context() -> ssl.SSLContext:
    """A server context with a certificate that nobody should trust, and that no transport needs to."""
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
