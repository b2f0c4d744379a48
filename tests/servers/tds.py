"""A responder that speaks the beginning of SQL Server's protocol, as [MS-TDS] documents it.

SQL Server itself is not available to the tests. What is special about its protocol on the way through a relay is the
beginning: a client asks in clear text whether to encrypt (PRELOGIN), then TLS handshakes inside of TDS packets, then
TDS inside of TLS, with the login as its first message. Numbers in brackets are sections of [MS-TDS].
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Types of packets [2.2.3.1.1].
_SQL_BATCH, _RESPONSE, _LOGIN7, _PRELOGIN = 0x01, 0x04, 0x10, 0x12
_END_OF_MESSAGE = 0x01
#: Sent by the server until the client asks for another size, which this responder never grants.
_PACKET_BYTES = 4096
_HEADER = struct.Struct(">BBHHBB")
#: Options of PRELOGIN [2.2.6.5].
_VERSION, _ENCRYPTION, _TERMINATOR = 0x00, 0x01, 0xFF
_ENCRYPT_REQUIRED = 0x03
#: Tokens of responses [2.2.7].
_COLMETADATA, _ERROR, _LOGINACK, _ROW, _DONE = 0x81, 0xAA, 0xAD, 0xD1, 0xFD
_INT4 = 0x38
_DONE_ERROR, _DONE_COUNT = 0x02, 0x10
#: Version 7.4, as in LOGINACK.
_TDS_7_4 = bytes.fromhex("74000004")


class _Plain:
    """The connection before TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def receive(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            EOFError: the client has ended the connection.
        """
        received = b""
        while len(received) < size:
            piece = self._sock.recv(size - len(received))
            if not piece:
                raise EOFError
            received += piece
        return received

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)


class _Encrypted(_Plain):
    """The connection inside of TLS, after the handshake [2.2.6.5]: TDS packets are TLS data."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO):
        super().__init__(sock)
        self._tls, self._incoming, self._outgoing = tls, incoming, outgoing

    def receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            try:
                piece = self._tls.read(size - len(received))
            except ssl.SSLWantReadError:
                data = self._sock.recv(1 << 16)
                if not data:
                    raise EOFError from None
                self._incoming.write(data)
                continue
            if not piece:
                raise EOFError
            received += piece
        return received

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        super().send(self._outgoing.read())


def _receive(connection: _Plain) -> tuple[int, bytes]:
    """Return the type and the payload of the next message."""
    payload = b""
    while True:
        kind, status, length, *_ = _HEADER.unpack(connection.receive(_HEADER.size))
        payload += connection.receive(length - _HEADER.size)
        if status & _END_OF_MESSAGE:
            return kind, payload


def _send(connection: _Plain, kind: int, payload: bytes) -> None:
    """Send a message in as many packets as it needs."""
    size = _PACKET_BYTES - _HEADER.size
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    for number, piece in enumerate(pieces, start=1):
        status = _END_OF_MESSAGE if number == len(pieces) else 0
        connection.send(_HEADER.pack(kind, status, _HEADER.size + len(piece), 0, number % 256, 0) + piece)


def _prelogin_answer(question: bytes) -> bytes:
    """Require encryption. Raises ValueError if the client cannot encrypt."""
    options, at = {}, 0
    while question[at] != _TERMINATOR:
        option, offset, length = struct.unpack_from(">BHH", question, at)
        options[option] = question[offset : offset + length]
        at += 5
    if options[_ENCRYPTION] == b"\x02":
        raise ValueError("the client does not encrypt")
    start = 2 * 5 + 1
    table = struct.pack(">BHHBHHB", _VERSION, start, 6, _ENCRYPTION, start + 6, 1, _TERMINATOR)
    return table + bytes([16, 0, 0, 0, 0, 0]) + bytes([_ENCRYPT_REQUIRED])


def _handshake(sock: socket.socket, context: ssl.SSLContext) -> _Encrypted:
    """Make the TLS handshake, whose records are the payload of PRELOGIN packets."""
    plain, incoming, outgoing = _Plain(sock), ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    is_over = False
    while not is_over:
        try:
            tls.do_handshake()
            is_over = True
        except ssl.SSLWantReadError:
            pass
        if outgoing.pending:
            _send(plain, _PRELOGIN, outgoing.read())
        if not is_over:
            kind, payload = _receive(plain)
            if kind != _PRELOGIN:
                raise ValueError(f"a packet of type {kind} during the handshake")
            incoming.write(payload)
    return _Encrypted(sock, tls, incoming, outgoing)


def _login(message: bytes) -> tuple[str, str]:
    """Return user and password of LOGIN7 [2.2.6.4]."""

    def field(at: int) -> bytes:
        offset, characters = struct.unpack_from("<HH", message, at)
        return message[offset : offset + 2 * characters]

    # Each byte of the password is XORed with A5 after its halves were exchanged.
    hidden = bytes(byte ^ 0xA5 for byte in field(44))
    password = bytes((byte >> 4) | (byte << 4 & 0xF0) for byte in hidden)
    return field(40).decode("utf-16-le"), password.decode("utf-16-le")


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("utf-16-le")


def _done(status: int = 0, rows: int = 0) -> bytes:
    return struct.pack("<BHHQ", _DONE, status, 0xC1, rows)


def _login_answer(accepted: bool) -> bytes:
    if accepted:
        token = b"\x01" + _TDS_7_4 + _text("Microsoft SQL Server") + bytes([16, 0, 0, 0])
        return struct.pack("<BH", _LOGINACK, len(token)) + token + _done()
    text = "Login failed for user.".encode("utf-16-le")
    token = struct.pack("<IBBH", 18456, 1, 14, len(text) // 2) + text + _text("sql01") + _text("")
    token += struct.pack("<I", 1)
    return struct.pack("<BH", _ERROR, len(token)) + token + _done(_DONE_ERROR)


def _rows(message: bytes) -> bytes:
    """Answer ``SELECT TOP n ...`` with one column and the rows 1 to n. The headers [2.2.5.3] precede the text."""
    (headers,) = struct.unpack_from("<I", message)
    found = re.match(r"SELECT TOP (\d+) ", message[headers:].decode("utf-16-le"))
    if found is None:  # what a client sets at the beginning
        return _done()
    count = int(found[1])
    columns = struct.pack("<BHIHB", _COLMETADATA, 1, 0, 0, _INT4) + _text("number")
    rows = b"".join(struct.pack("<Bi", _ROW, number) for number in range(1, count + 1))
    return columns + rows + _done(_DONE_COUNT, count)


def _serve(sock: socket.socket, context: ssl.SSLContext, user: str, password: str) -> None:
    with sock, suppress(EOFError, OSError):
        kind, question = _receive(_Plain(sock))
        assert kind == _PRELOGIN
        _send(_Plain(sock), _RESPONSE, _prelogin_answer(question))
        encrypted = _handshake(sock, context)
        kind, message = _receive(encrypted)
        assert kind == _LOGIN7
        accepted = _login(message) == (user, password)
        _send(encrypted, _RESPONSE, _login_answer(accepted))
        while accepted:
            kind, message = _receive(encrypted)
            assert kind == _SQL_BATCH
            _send(encrypted, _RESPONSE, _rows(message))


@contextmanager
def tds_responder(certificate: Path, user: str, password: str, host: str = "127.0.0.1") -> Iterator[int]:
    """Listen while the block runs. Gives the port.

    Args:
        certificate: a file with the certificate of the server, and its key.
        user, password: those that can log in.
        host: the address to listen on.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    # FreeTDS sends no login after a handshake of TLS 1.3, which is not a part of TDS 7.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server((host, 0)) as listener:

        def accept() -> None:
            with suppress(OSError):  # closed at the end of the block
                while True:
                    arguments = (listener.accept()[0], context, user, password)
                    threading.Thread(target=_serve, args=arguments, daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    accepting.join()
