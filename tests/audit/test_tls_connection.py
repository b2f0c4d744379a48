"""What a server of the audit log may send in the TLS handshake."""

from __future__ import annotations

import socket
import ssl
import struct
import threading

import pytest

from hybridrelay.audit.sinks import tls_connection
from hybridrelay.audit.sinks.tls_connection import TLSConnection

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
