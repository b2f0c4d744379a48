"""What a server of the audit log may send in the TLS handshake."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from pathlib import Path

import pytest

from hybridrelay.audit.sinks import tls_connection
from hybridrelay.audit.sinks.tls_connection import TLSConnection

from ..certificates import CertificateAuthority

#: A TLS record with many HelloRequest messages, which a client in a handshake ignores (RFC 5246, 7.4.1.1).
NOTHING = struct.pack("!BHH", 22, 0x0303, 4096) + bytes(4096)


def test_a_server_that_never_ends_the_handshake_is_disconnected() -> None:
    """It sends what the client ignores, for as long as the client reads."""
    ours, theirs = socket.socketpair()
    sent = 0

    def serve() -> None:
        nonlocal sent
        with theirs:
            try:
                while sent < 16 * tls_connection._MAX_HANDSHAKE:
                    theirs.sendall(NOTHING)
                    sent += len(NOTHING)
            except OSError:
                pass  # the client has closed the connection

    server = threading.Thread(target=serve)
    server.start()
    try:
        with pytest.raises(OSError, match="the server sends too much in the TLS handshake"):
            TLSConnection(ours, ssl.create_default_context(), "logs.example", 60.0)
    finally:
        server.join(60)
    assert ours.fileno() == -1
    assert sent < 8 * tls_connection._MAX_HANDSHAKE


def test_a_server_that_stops_reading_is_given_up(tmp_path: Path) -> None:
    """Otherwise, it would keep the thread of the sink for ever."""
    authority = CertificateAuthority()
    certificate, key = authority.issue("127.0.0.1")
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    (tmp_path / "server.pem").write_bytes(certificate + key)

    def serve() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem")
        with context.wrap_socket(theirs, server_side=True):
            stop.wait(60)

    server = threading.Thread(target=serve)
    server.start()
    try:
        context = ssl.create_default_context(cafile=authority.write(tmp_path / "ca.pem"))
        connection = TLSConnection(ours, context, "127.0.0.1", 60.0)
        connection._seconds = 0.05
        with pytest.raises(TimeoutError):
            connection.sendall(bytes(8 << 20))
        connection.close()
    finally:
        stop.set()
        server.join(60)
