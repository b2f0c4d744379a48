"""The steps towards a channel: each failure names its step and its kind where it is raised."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import NoReturn

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.abc import Address, Binding, Connection, Dialer, Listener, Port, Purpose, Route, Transport
from hybridrelay.connectivity import Candidate, Failure, FailureKind, ProxyError, RelayEndpoint, Step, open_channel
from hybridrelay.connectivity.steps import ConnectTiming, StepFailed, connect, echo, greet, resolve_relay
from hybridrelay.errors import RelayUnreachable, TLSHandshakeError, TransportError
from hybridrelay.protocol.preamble import PREAMBLE_SIZE, STATUS_SIZE, Preamble
from hybridrelay.protocol.reasons import Reason
from hybridrelay.streams import receive_exactly

K = FailureKind
PORT = Port("data", 9352)
ROUTE = Route("fake", 0, PORT)
ENDPOINT = RelayEndpoint("relay.example.com")


class FakeTransport(Transport):
    """Dials and then does what the test wants."""

    name = "fake"
    routes = (ROUTE,)

    def __init__(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        self._then = then

    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        stream = await dialer.tcp(address.host, address.port)
        try:
            if self._then is not None:
                await self._then()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return Connection.over(stream, address.host)

    async def listen(self, binding: Binding) -> Listener:
        raise NotImplementedError


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def act() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    return act


def broken(cause: BaseException | None = None) -> trio.BrokenResourceError:
    error = trio.BrokenResourceError()
    error.__cause__ = cause
    return error


class OtherTransport(FakeTransport):
    """Opens a UDP socket, or starts a command, instead of dialing."""

    def __init__(self, opens: str) -> None:
        super().__init__()
        self._opens = opens

    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        if self._opens == "udp":
            (await dialer.udp(address.host, address.port)).close()
        else:
            await trio.aclose_forcefully(await dialer.process())
        return Connection.over(trio.testing.memory_stream_pair()[0], address.host)


async def connected(host: str, port: int) -> trio.abc.HalfCloseableStream:
    await trio.lowlevel.checkpoint()
    return trio.testing.memory_stream_pair()[0]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ECONNREFUSED, "x"), K.REFUSED),
        (OSError(errno.ENETUNREACH, "x"), K.UNREACHABLE),
        (OSError("of an application's dial"), K.OTHER),
        (ProxyError(Failure.of(K.PROXY_SILENT)), K.PROXY_SILENT),
    ],
)
async def test_a_dial_that_fails(error: OSError, kind: FailureKind) -> None:
    async def dial(host: str, port: int) -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(StepFailed) as caught:
        await connect(ENDPOINT, Candidate(ROUTE, FakeTransport()), Purpose.DATA, dialer=Dialer(dial))
    assert (caught.value.failure.step, caught.value.failure.kind) == (Step.DIAL, kind)


async def test_the_dialer_opens_whatever_the_transport_asks_for() -> None:
    opened: list[object] = []

    async def udp(host: str, port: int) -> trio.socket.SocketType:
        await trio.lowlevel.checkpoint()
        opened.append((host, port))
        return trio.socket.socket(type=socket.SOCK_DGRAM)

    async def process() -> trio.abc.HalfCloseableStream:
        opened.append("process")
        return await connected("", 0)

    for opens in ("udp", "process"):
        dialer = Dialer(connected, udp, process)
        transport = OtherTransport(opens)
        stream = await connect(
            ENDPOINT, Candidate(ROUTE, transport), Purpose.DATA, dialer=dialer, address="192.0.2.1"
        )
        await stream.aclose()
    assert opened == [("192.0.2.1", 9352), "process"]


async def test_a_dial_whose_deadlines_pass_while_the_process_is_suspended(mock_clock: trio.testing.MockClock) -> None:
    """Both pass at once. That must not look as if something had accepted the connection."""

    async def dial(host: str, port: int) -> NoReturn:
        mock_clock.jump(3600)
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(StepFailed) as caught:
        await connect(ENDPOINT, Candidate(ROUTE, FakeTransport()), Purpose.DATA, dialer=Dialer(dial))
    assert (caught.value.failure.step, caught.value.failure.kind) == (Step.DIAL, K.DROPPED)


@pytest.mark.parametrize("opens", ["udp", "process"])
async def test_something_else_that_cannot_be_opened(opens: str, autojump_clock: trio.testing.MockClock) -> None:
    async def refuse(*_where: object) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.ENETUNREACH, "x")

    async def never(*_where: object) -> NoReturn:
        await trio.sleep_forever()
        raise AssertionError

    for dial, of_udp in ((refuse, K.UNREACHABLE), (never, K.DROPPED)):
        kind = of_udp if opens == "udp" else K.COMMAND_FAILED
        dialer = Dialer(connected, dial, dial)
        with pytest.raises(StepFailed) as caught:
            await connect(
                ENDPOINT,
                Candidate(ROUTE, OtherTransport(opens)),
                Purpose.DATA,
                dialer=dialer,
                timing=ConnectTiming(dial_seconds=2.0),
            )
        assert (caught.value.failure.step, caught.value.failure.kind) == (Step.DIAL, kind)
    assert trio.current_time() == 2.0


async def test_a_dial_that_takes_too_long(autojump_clock: trio.testing.MockClock) -> None:
    async def dial(host: str, port: int) -> trio.abc.HalfCloseableStream:
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(StepFailed) as caught:
        await connect(
            ENDPOINT,
            Candidate(ROUTE, FakeTransport()),
            Purpose.DATA,
            dialer=Dialer(dial),
            timing=ConnectTiming(dial_seconds=2.0),
        )
    assert (caught.value.failure.step, caught.value.failure.kind) == (Step.DIAL, K.DROPPED)
    assert trio.current_time() == 2.0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TransportError("x"), K.NOT_A_RELAY),
        (TransportError.lost("x", broken(OSError(errno.ECONNRESET, "x"))), K.RESET),
        (TransportError("x", kind=K.OTHER), K.OTHER),
        (TLSHandshakeError("x"), K.TLS_FAILED),
        (TLSHandshakeError("x", untrusted="expired"), K.WRONG_IDENTITY),
        (broken(), K.CLOSED_EARLY),
        (broken(OSError(errno.ECONNRESET, "x")), K.RESET),
        (OSError(errno.ECONNRESET, "x"), K.RESET),
    ],
)
async def test_a_transports_handshake_that_fails(error: Exception, kind: FailureKind) -> None:
    with pytest.raises(StepFailed) as caught:
        await connect(
            ENDPOINT, Candidate(ROUTE, FakeTransport(raising(error))), Purpose.DATA, dialer=Dialer(connected)
        )
    assert (caught.value.failure.step, caught.value.failure.kind) == (Step.TRANSPORT, kind)
    assert caught.value.__cause__ is error


async def test_a_transports_handshake_that_takes_too_long(autojump_clock: trio.testing.MockClock) -> None:
    transport = FakeTransport(trio.sleep_forever)
    with pytest.raises(StepFailed) as caught:
        await connect(
            ENDPOINT,
            Candidate(ROUTE, transport),
            Purpose.DATA,
            dialer=Dialer(connected),
            timing=ConnectTiming(transport_seconds=3.0),
        )
    assert (caught.value.failure.step, caught.value.failure.kind) == (Step.TRANSPORT, K.STALLED)
    assert trio.current_time() == 3.0


async def test_only_the_inner_tls_says_who_the_relay_is() -> None:
    """A transport's own TLS that does not trust the other end is not reported as a wrong identity of the relay."""
    candidate = Candidate(ROUTE, FakeTransport(raising(TLSHandshakeError("x", untrusted="expired"))))
    with pytest.raises(RelayUnreachable) as caught:
        await open_channel(ENDPOINT, candidate, Purpose.DATA, ticket=bytes(32), dialer=Dialer(connected))
    assert caught.value.failure is not None
    assert (caught.value.failure.step, caught.value.failure.kind) == (Step.TRANSPORT, K.WRONG_IDENTITY)


async def test_a_bug_of_a_transport_stays_one() -> None:
    with pytest.raises(ZeroDivisionError):
        await connect(
            ENDPOINT,
            Candidate(ROUTE, FakeTransport(raising(ZeroDivisionError()))),
            Purpose.DATA,
            dialer=Dialer(connected),
        )


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", K.CLOSED_EARLY),
        (b"HYRS", K.CLOSED_EARLY),
        (b"HTTP/1.1", K.NOT_A_RELAY),
        (b"HYRS\x02\x00\x00\x00", K.VERSION_MISMATCH),
        (None, K.STALLED),
    ],
)
async def test_a_status_that_is_none(
    answer: bytes | None, kind: FailureKind, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    if answer is not None:
        await theirs.send_all(answer)
        await theirs.send_eof()
    with pytest.raises(StepFailed) as caught:
        await greet(ours, Preamble(Purpose.PROBE), seconds=2.0)
    assert (caught.value.failure.step, caught.value.failure.kind) == (Step.STATUS, kind)
    assert len(await receive_exactly(theirs, PREAMBLE_SIZE)) == PREAMBLE_SIZE


async def test_a_status_that_refuses_is_an_answer() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"HYRS\x01\x00" + int(Reason.BUSY).to_bytes(2, "big"))
    assert await greet(ours, Preamble(Purpose.PROBE), seconds=2.0) is Reason.BUSY
    assert STATUS_SIZE == 8


@pytest.mark.parametrize(
    ("answer", "kind"), [(b"abcd", None), (b"abce", K.NOT_A_RELAY), (b"abc", K.CLOSED_EARLY), (None, K.STALLED)]
)
async def test_a_round_trip_needs_the_right_answer_in_time(
    answer: bytes | None, kind: FailureKind | None, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    if answer is not None:
        await theirs.send_all(answer)
        await theirs.send_eof()
    if kind is None:
        await echo(ours, b"abcd", seconds=3.0)
        return
    with pytest.raises(StepFailed) as caught:
        await echo(ours, b"abcd", seconds=3.0)
    assert (caught.value.failure.step, caught.value.failure.kind) == (Step.ECHO, kind)


async def test_a_name_that_cannot_be_one() -> None:
    endpoint = attrs.evolve(ENDPOINT, host="a..example.com")
    with pytest.raises(StepFailed) as caught:
        await resolve_relay(endpoint, 9352, seconds=5.0)
    assert (caught.value.failure.step, caught.value.failure.kind) == (Step.RESOLVE, K.NAME_NOT_FOUND)
