"""Peers without a key, which bring a connection into any phase before authentication, and stop there."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Protocol

SECONDS = 12.0
#: The maximum sizes of a TLS record, a frame and a control message that the relay accepts before authentication.
RECORD_BYTES = 8 * 1024
FRAME_BYTES = 8 * 1024
MESSAGE_BYTES = 7 * 1024 + 500
#: How much a peer sends in order to fill buffers (bytes).
JUNK_BYTES = 130_000

PROBE, CONTROL, DATA = range(3)
_UPGRADE = (
    b"GET /hybridrelay HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Protocol: hybridrelay.v1\r\n\r\n"
)


class Wire(Protocol):
    """A connected peer: a socket, or a layer on one."""

    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...


def preamble(purpose: int = CONTROL) -> bytes:
    """Return the first bytes of every connection, with a ticket of zeros."""
    return struct.pack(">4sBBH32s", b"HYRL", 1, purpose, 0, bytes(32))


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


CONTEXT = _context()


def client_hello() -> bytes:
    """Return the first TLS record of an ordinary client."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        CONTEXT.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def _records(data: bytes, size: int) -> bytes:
    """Split data into handshake records of `size` bytes each."""
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(struct.pack(">BHH", 22, 0x0301, len(part)) + part for part in parts)


def endless_hello(size: int = 16_384, sent: int = JUNK_BYTES) -> bytes:
    """Return the beginning of a ClientHello that is longer than what is sent, in records of `size` bytes."""
    return _records(b"\x01" + (sent + 1000).to_bytes(3, "big") + bytes(sent - 4), size)


class Tls:
    """A TLS client over a socket or another `Wire`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = CONTEXT.wrap_bio(self._incoming, self._outgoing)
        while True:
            try:
                self._ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._exchange()
        wire.sendall(self._outgoing.read())

    def _exchange(self) -> None:
        if self._outgoing.pending:
            self._wire.sendall(self._outgoing.read())
        data = self._wire.recv(65536)
        if not data:
            raise ConnectionError("the relay closed the connection")
        self._incoming.write(data)

    def sendall(self, data: bytes) -> None:
        self._wire.sendall(self.encrypt(data))

    def encrypt(self, data: bytes, size: int = RECORD_BYTES) -> bytes:
        """Return the records that carry `data`, `size` bytes in each."""
        view = memoryview(data)
        while view:
            view = view[self._ssl.write(view[:size]) :]
        return self._outgoing.read()

    def recv(self, size: int) -> bytes:
        while True:
            try:
                return self._ssl.read(size)
            except ssl.SSLWantReadError:
                self._exchange()


class WebSocket:
    """Binary messages over another `Wire`, after the handshake; what is received is not unpacked."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        wire.sendall(_UPGRADE)
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = wire.recv(4096)
            if not data:
                raise ConnectionError("the relay closed the connection")
            answer += data
        if b" 101 " not in answer:
            raise ConnectionError(answer.decode("latin-1"))
        self._left = answer.partition(b"\r\n\r\n")[2]

    def sendall(self, data: bytes) -> None:
        for start in range(0, len(data), 60_000):
            self._wire.sendall(message(data[start : start + 60_000]))

    def recv(self, size: int) -> bytes:
        while True:
            if len(self._left) >= 2:
                length, head = self._left[1] & 0x7F, 2
                if length == 126 and len(self._left) >= 4:
                    (length,), head = struct.unpack_from(">H", self._left, 2), 4
                if len(self._left) >= head + length:
                    data, self._left = self._left[head : head + length], self._left[head + length :]
                    return data
            data = self._wire.recv(65536)
            if not data:
                raise ConnectionError("the relay closed the connection")
            self._left += data


def message(payload: bytes, opcode: int = 2, announced: int | None = None) -> bytes:
    """Return a WebSocket frame, masked with zeros, which may announce a longer payload than it has."""
    size = len(payload) if announced is None else announced
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    elif size < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + bytes(4) + payload


def frame(kind: int, stream: int, payload: bytes, announced: int | None = None) -> bytes:
    """Return a frame of a session, which may announce a longer payload than it has."""
    return struct.pack(">II", kind << 24 | (len(payload) if announced is None else announced), stream) + payload


HELLO = frame(1, 0, struct.pack(">BBHII16s32sIQQ", 1, 1, 0, 0, 1, bytes(range(16)), bytes(32), 0, 0, 0))
OPEN = frame(2, 1, struct.pack(">QB", 65536, 0))
ACK = frame(10, 0, bytes(8))


def control_hello() -> bytes:
    """Return the first message on a control channel."""
    import json

    body = {"type": "hello", "role": "client", "instance": "0" * 32, "generation": 1, "software": "stranger"}
    text = json.dumps(body).encode()
    return struct.pack(">I", len(text)) + text


Make = Callable[[Wire], Wire]


def greeted(wire: Wire, purpose: int = CONTROL) -> Wire:
    """Send the preamble, and receive its status."""
    wire.sendall(preamble(purpose))
    status = wire.recv(8)
    if status[:4] != b"HYRS":
        raise ConnectionError(f"no status but {status!r}")
    return wire


def _half_hello(wire: Wire) -> Wire:
    wire.sendall(client_hello()[:300])
    return wire


def _hello_only(wire: Wire) -> Wire:
    wire.sendall(client_hello())
    return wire


def _hello_one_byte_records(wire: Wire) -> Wire:
    wire.sendall(_records(client_hello()[5:], 1)[:-6])
    return wire


def _junk(size: int) -> Make:
    def send(wire: Wire) -> Wire:
        _tolerant(wire, endless_hello(size))
        return wire

    return send


def _tolerant(wire: Wire, data: bytes) -> None:
    """Send as much as the relay accepts. The relay may close the connection, which is not an error."""
    with contextlib.suppress(ConnectionError, TimeoutError):
        wire.sendall(data)


def _session(wire: Wire) -> Tls:
    """Open TLS, a session in which both sides have sent HELLO, and one stream."""
    tls = Tls(wire)
    tls.sendall(HELLO)
    tls.recv(1024)
    tls.sendall(OPEN + frame(5, 1, control_hello()))
    return tls


def _hello_of_session(wire: Wire) -> Wire:
    tls = Tls(wire)
    tls.sendall(HELLO)
    return tls


def _then_send(*parts: bytes) -> Make:
    def send(wire: Wire) -> Wire:
        tls = _session(wire)
        for part in parts:
            _tolerant(tls, part)
        return tls

    return send


def _half_records(wire: Wire) -> Wire:
    """Open a session, and send a record without its end."""
    tls = _session(wire)
    rest = tls.encrypt(frame(5, 1, bytes(FRAME_BYTES - 100)))
    _tolerant(wire, rest[:-100])
    return tls


def _long_record(wire: Wire) -> Wire:
    """Open a session, and send the beginning of a record of the maximum length of TLS."""
    tls = _session(wire)
    _tolerant(wire, tls.encrypt(bytes(16_384), 16_384)[:-100])
    return tls


def _half_of_everything(wire: Wire) -> Wire:
    """Send a part of a message, then a part of a frame, then a part of a record."""
    tls = _session(wire)
    tls.sendall(frame(5, 1, MESSAGE_BYTES.to_bytes(4, "big") + bytes(3000)))
    tls.sendall(frame(5, 1, bytes(2000), announced=FRAME_BYTES - 3200))
    _tolerant(wire, tls.encrypt(bytes(2800))[:-100])
    return tls


def _dribble(wire: Wire) -> Wire:
    """Send a frame of the session with its payload in many small records."""
    tls = _session(wire)
    tls.sendall(frame(5, 1, b"", announced=FRAME_BYTES - 100))
    _tolerant(wire, b"".join(tls.encrypt(bytes(4)) for _ in range(1000)))
    return tls


#: The phases after the status, inside a control channel's transport.
INSIDE: dict[str, Make] = {
    "greeted": lambda wire: wire,
    "half a ClientHello": _half_hello,
    "a ClientHello in records of one byte": _hello_one_byte_records,
    "130 kB of a ClientHello": _junk(16_384),
    "130 kB of a ClientHello in small records": _junk(64),
    "a ClientHello and no more": _hello_only,
    "TLS done": Tls,
    "HELLO": _hello_of_session,
    "HELLO, OPEN and hello": _session,
    "a DATA frame that is too long": _then_send(frame(5, 1, bytes(60_000), announced=65_536)),
    "half a DATA frame": _then_send(frame(5, 1, bytes(FRAME_BYTES - 200), announced=FRAME_BYTES - 100)),
    "half a control message": _then_send(frame(5, 1, MESSAGE_BYTES.to_bytes(4, "big") + bytes(MESSAGE_BYTES - 100))),
    "a burst of ACK": _then_send(ACK * 2000),
    "half a record": _half_records,
    "a record that is too long": _long_record,
    "half of everything": _half_of_everything,
    "half a frame in records of four bytes": _dribble,
}


def _head(wire: Wire) -> Wire:
    wire.sendall(b"GET /hybridrelay HTTP/1.1\r\nHost: r\r\nX: " + b"a" * 3000)
    return wire


def _long_head(wire: Wire) -> Wire:
    _tolerant(wire, b"GET / HTTP/1.1\r\nHost: r\r\nX: " + b"a" * 8_000)
    return wire


def _many_headers(wire: Wire) -> Wire:
    _tolerant(wire, b"GET / HTTP/1.1\r\nHost: r\r\n" + b"a:\r\n" * 1900)
    return wire


def _half_message(wire: Wire) -> Wire:
    socket_ = WebSocket(wire)
    wire.sendall(message(preamble()[:20], announced=60_000))
    return socket_


def _pongs(wire: Wire) -> Wire:
    socket_ = WebSocket(wire)
    _tolerant(wire, message(preamble()[:20], announced=20) + message(bytes(125), 10) * 200)
    return socket_


def _pings(wire: Wire) -> Wire:
    """Send pings, and do not read the answers."""
    socket_ = WebSocket(wire)
    _tolerant(wire, message(bytes(125), 9) * 200)
    return socket_


#: The phases on a port with HTTP.
HTTP: dict[str, Make] = {
    "connected": lambda wire: wire,
    "3 kB of an HTTP head": _head,
    "8 kB of an HTTP head": _long_head,
    "1,900 headers": _many_headers,
    "upgraded": WebSocket,
    "half a message": _half_message,
    "pongs": _pongs,
    "pings": _pings,
}


def _raw(purpose: int) -> dict[str, Make]:
    def half(wire: Wire) -> Wire:
        wire.sendall(preamble(purpose)[:20])
        return wire

    return {"connected": lambda wire: wire, "half a preamble": half}


def _partial_probe(wire: Wire) -> Wire:
    greeted(wire, PROBE).sendall(bytes(4095))
    return wire


def _outer(make: Make) -> Make:
    return lambda wire: make(Tls(wire))


def phases() -> dict[str, dict[str, Make]]:
    """Return all phases before authentication in which a peer may stop, by port."""
    inside_ws = {name: _then(WebSocket, _then(greeted, make)) for name, make in INSIDE.items()}
    return {
        "probe": {**_raw(PROBE), "a byte is missing": _partial_probe},
        "data": _raw(DATA),
        "control": {**_raw(CONTROL), **{name: _then(greeted, make) for name, make in INSIDE.items()}},
        "http": {**HTTP, **inside_ws},
        "https": {
            "connected": lambda wire: wire,
            "outer: half a ClientHello": _half_hello,
            "outer: 130 kB of a ClientHello": _junk(16_384),
            "outer: a ClientHello and no more": _hello_only,
            **{name: _outer(make) for name, make in {**HTTP, **inside_ws}.items()},
        },
    }


def _then(first: Callable[[Wire], Wire], second: Make) -> Make:
    return lambda wire: second(first(wire))


def connect(port: int, address: str) -> socket.socket:
    """Connect to a port of the loopback interface from `address`, another address of this interface."""
    wire = socket.socket()
    try:
        wire.settimeout(SECONDS)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.bind((address, 0))
        wire.connect(("127.0.0.1", port))
    except BaseException:
        wire.close()
        raise
    return wire


def loopback(number: int) -> str:
    """Return one of many loopback addresses, none of which is 127.0.0.1."""
    return f"127.1.{number // 250 % 250}.{number % 250 + 1}"
