"""Fakes for these tests: a network in memory and virtual time, and servers that behave well or in a given bad way."""

from __future__ import annotations

import contextlib
import errno
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.abc import Address, Binding, Connection, Dialer, Listener, Port, Purpose, Route, Transport
from hybridrelay.connectivity import RelayEndpoint
from hybridrelay.errors import TransportError
from hybridrelay.protocol.errors import RemoteProtocolError
from hybridrelay.protocol.preamble import (
    PREAMBLE_SIZE,
    PROBE_SIZE,
    TICKET_SIZE,
    decode_preamble_untrusted,
    encode_status,
)
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import control_server_context, load_or_create_relay_certificate, relay_pin
from hybridrelay.streams import TLSStream, receive_exactly
from hybridrelay.streams.sockets import abort_stream

PROBE = Port("probe", 9350)
CONTROL = Port("control", 5671)
DATA = Port("data", 9352)
HTTPS = Port("https", 443)
HTTP = Port("http", 80)


@attrs.frozen
class Certificates:
    """Two relays: ours, and one that is not."""

    right: ssl.SSLContext
    wrong: ssl.SSLContext
    #: The pin of the right one.
    pin: str


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    right, wrong = (
        load_or_create_relay_certificate(tmp_path_factory.mktemp(name), now=time.time())
        for name in ("right", "wrong")
    )
    return Certificates(control_server_context(right), control_server_context(wrong), relay_pin(right))


# --- servers


async def serve_relay(
    stream: trio.abc.HalfCloseableStream,
    context: ssl.SSLContext,
    *,
    latency: float = 0,
    answers: Mapping[Purpose, Reason] | None = None,
    alter: bool = False,
    stall_in: str = "",
) -> None:
    """Answer as a relay does, as far as the dialing side can tell.

    Args:
        stream: the connection.
        context: for control channels.
        latency: seconds before each answer.
        answers: other statuses than the right ones.
        alter: return other bytes than the probe sent, and anything but TLS.
        stall_in: ``"echo"`` or ``"tls"``: fall silent there.
    """
    preamble = decode_preamble_untrusted(await receive_exactly(stream, PREAMBLE_SIZE))
    right = Reason.NO_ERROR
    if preamble.purpose is Purpose.DATA and preamble.credential == bytes(TICKET_SIZE):
        right = Reason.TICKET_UNKNOWN
    reason = (answers or {}).get(preamble.purpose, right)
    await trio.sleep(latency)
    await stream.send_all(encode_status(reason))
    if reason is not Reason.NO_ERROR:
        return
    if preamble.purpose is Purpose.PROBE:
        data = await receive_exactly(stream, PROBE_SIZE)
        await trio.sleep(latency)
        if stall_in == "echo":
            await trio.sleep_forever()
        await stream.send_all(data[::-1] if alter else data)
    elif preamble.purpose is Purpose.CONTROL:
        if stall_in == "tls":
            await trio.sleep_forever()
        if alter:
            await stream.send_all(bytes(100))
        tls = TLSStream(stream, context, server_side=True)
        await tls.do_handshake()
        await tls.receive_some()  # no session: a client that begins one finds the connection closed
        return
    else:
        await stream.send_all(preamble.credential)
    await trio.sleep_forever()  # until the other side closes; its end of file is not waited for


async def serve_badly(stream: trio.abc.HalfCloseableStream, answer: bytes | None) -> None:
    """Answer anything with `answer` and close; None: never answer."""
    if answer is None:
        await trio.sleep_forever()
    if answer:
        await stream.receive_some()
        await stream.send_all(answer)


Server = Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]


def make_server(behaviour: str, certificates: Certificates, latency: float = 0) -> Server:
    """The server that behaves like this."""
    relay = partial(serve_relay, context=certificates.right, latency=latency)
    servers: dict[str, Server] = {
        "right": relay,
        "wrong-pin": partial(relay, context=certificates.wrong),
        "altered": partial(relay, alter=True),
        "stalled-echo": partial(relay, stall_in="echo"),
        "stalled-tls": partial(relay, stall_in="tls"),
        "busy": partial(relay, answers=dict.fromkeys(Purpose, Reason.BUSY)),
        "wrong-port": partial(relay, answers=dict.fromkeys(Purpose, Reason.WRONG_PORT)),
        "stalled": partial(serve_badly, answer=None),
        "closed": partial(serve_badly, answer=b""),
        "reset": abort_stream,
        "truncated": partial(serve_badly, answer=encode_status(Reason.NO_ERROR)[:-1]),
        "newer": partial(serve_badly, answer=b"HYRS\x09\x00\x00\x00"),
        "garbage": partial(serve_badly, answer=bytes(range(256))),
        "http": partial(serve_badly, answer=b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
    }
    return servers[behaviour]


async def run_server(server: Server, stream: trio.abc.HalfCloseableStream) -> None:
    """Serve one connection and close it, whatever the other side did."""
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError, TransportError, RemoteProtocolError):
            await server(stream)


# --- a network in memory, for virtual time


class FakeTransport(Transport):
    """Adds nothing to TCP, or a handshake of one byte each way."""

    def __init__(self, name: str, *routes: Route, handshake: bool = False) -> None:
        self.name = name
        self.routes = routes
        self._handshake = handshake

    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        stream = await dialer.tcp(address.host, address.port)
        if self._handshake:
            try:
                await stream.send_all(b"?")
                if await stream.receive_some(1) != b"!":
                    raise TransportError("no handshake of this transport")
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        return Connection.over(stream, address.host)

    async def listen(self, binding: Binding) -> Listener:
        raise NotImplementedError


def fake_transports() -> dict[str, Transport]:
    """What is installed by default, as far as routes and ports go."""
    native = Route("tcp", 10, DATA, {Purpose.PROBE: PROBE, Purpose.CONTROL: CONTROL})
    wss, ws = Route("wss", 20, HTTPS), Route("ws", 30, HTTP)
    return {"tcp": FakeTransport("tcp", native), "websocket": FakeTransport("websocket", wss, ws, handshake=True)}


class FakeNetwork:
    """A host whose ports behave as the test wants; `dial` reaches it."""

    def __init__(self, nursery: trio.Nursery, certificates: Certificates) -> None:
        self._nursery = nursery
        self._certificates = certificates
        #: By port number: ``refused``, ``dropped``, ``unreachable``, or a behaviour of `make_server`.
        self.behaviours: dict[int, str] = {}
        #: Seconds of a round trip, by port number.
        self.latencies: dict[int, float] = {}
        #: Every connection that was opened: port number and our end.
        self.dialed: list[tuple[int, trio.abc.HalfCloseableStream]] = []
        self.endpoint = RelayEndpoint("relay.example.com", pins=(certificates.pin,))

    async def dial(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        latency = self.latencies.get(port, 0)
        await trio.sleep(latency)
        behaviour = self.behaviours.get(port, "refused")
        if behaviour == "refused":
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        if behaviour == "unreachable":
            raise OSError(errno.EHOSTUNREACH, "no route")
        if behaviour == "dropped":
            await trio.sleep_forever()
        ours, theirs = trio.testing.memory_stream_pair()
        self.dialed.append((port, ours))
        self._nursery.start_soon(self._serve, port, behaviour, latency, theirs)
        return ours

    async def _serve(self, port: int, behaviour: str, latency: float, stream: trio.abc.HalfCloseableStream) -> None:
        async def server(stream: trio.abc.HalfCloseableStream) -> None:
            if port in (80, 443) and behaviour != "stalled":
                await receive_exactly(stream, 1)
                await trio.sleep(latency)
                await stream.send_all(b"!")
            await make_server(behaviour, self._certificates, latency)(stream)

        await run_server(server, stream)

    async def assert_all_closed(self) -> None:
        """Nothing that was dialed is still open."""
        for port, stream in self.dialed:
            with contextlib.suppress(trio.ClosedResourceError):
                await stream.send_all(b"x")
                raise AssertionError(f"the connection to port {port} is still open")


@pytest.fixture
async def network(nursery: trio.Nursery, certificates: Certificates) -> FakeNetwork:
    return FakeNetwork(nursery, certificates)


@pytest.fixture
def transports() -> dict[str, Transport]:
    return fake_transports()


# --- real sockets

#: Starts a server with this behaviour on 127.0.0.1, and gives its port.
Listen = Callable[[str], Awaitable[int]]


@pytest.fixture
async def listen(nursery: trio.Nursery, certificates: Certificates) -> Listen:
    """Start a server of some behaviour on 127.0.0.1 and give its port."""

    async def start(behaviour: str) -> int:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        handler = partial(run_server, make_server(behaviour, certificates))
        nursery.start_soon(partial(trio.serve_listeners, handler, listeners))
        return int(listeners[0].socket.getsockname()[1])

    return start


@pytest.fixture
async def refusing_port() -> AsyncIterator[int]:
    """A port on 127.0.0.1 that is bound, and on which nothing listens."""
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture(name="make_server")
def make_server_fixture(certificates: Certificates) -> Callable[[str], Server]:
    return partial(make_server, certificates=certificates)
