"""The name server for published names: its answers, and real sockets."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from hybridrelay.client.names import name_server
from hybridrelay.client.names.name_server import NameServer, answer_untrusted, open_name_server
from hybridrelay.errors import ConfigurationError
from hybridrelay.events import EventStream

from ...deployments import free_port

A, AAAA, MX = 1, 28, 15
NAME = "sql01.corp.example"
V4 = IPv4Address("127.64.3.7")
V6 = IPv6Address("::1")
EVENTS = EventStream()


PUBLISHED: Mapping[str, Sequence[IPv4Address | IPv6Address]] = {
    NAME: (V4,),
    "both.corp.example": (V4, V6),
    "empty.corp.example": (),
}


def find(names: AbstractSet[str]) -> Mapping[str, Sequence[IPv4Address | IPv6Address]]:
    return {name: addresses for name, addresses in PUBLISHED.items() if name in names}


def question(name: str = NAME, kind: int = A, *, flags: int = 0x0100, class_: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack("!6H", 7, flags, 1, 0, 0, 0) + labels + struct.pack("!2H", kind, class_)


def read(answer: bytes | None) -> tuple[int, int]:
    """The code, and the number of records."""
    assert answer is not None
    identifier, flags, questions, count, *_ = struct.unpack_from("!6H", answer)
    assert (identifier, questions) == (7, 1)
    return flags & 0xF, count


@pytest.mark.parametrize(
    ("asked", "code", "count"),
    [
        (question(), 0, 1),
        (question("SQL01.Corp.Example"), 0, 1),
        (question(kind=AAAA), 0, 0),
        (question(kind=MX), 0, 0),
        (question("both.corp.example", AAAA), 0, 1),
        (question("empty.corp.example"), 0, 0),
        (question(f"a.b.{NAME}"), 3, 0),
        (question("corp.example"), 5, 0),
        (question(f"{NAME}.default.svc.cluster.local"), 5, 0),
        (question("example.com"), 5, 0),
        (question(class_=3), 5, 0),
        (question(flags=0x2800), 4, 0),
    ],
)
def test_a_question_is_answered_with_this_code_and_number_of_records(asked: bytes, code: int, count: int) -> None:
    assert read(answer_untrusted(asked, find)) == (code, count)


def test_published_names_are_looked_up_once_for_a_question() -> None:
    asked: list[AbstractSet[str]] = []

    def find_noting(names: AbstractSet[str]) -> Mapping[str, Sequence[IPv4Address | IPv6Address]]:
        asked.append(names)
        return find(names)

    name = "a." * 100 + NAME
    assert read(answer_untrusted(question(name), find_noting)) == (3, 0)
    (names,) = asked
    assert len(names) == 103
    assert {name, NAME, "corp.example", "example"} <= names


@given(st.binary(max_size=600) | st.binary(max_size=50).map(lambda data: question()[:12] + data))
def test_any_message_is_answered_or_ignored(data: bytes) -> None:
    answer = answer_untrusted(data, find)
    assert answer is None or len(answer) <= max(512, len(data))


class Running:
    """A name server that runs."""

    def __init__(self, server: NameServer) -> None:
        self.server = server
        self.address = server.bound[0]

    async def ask_udp(self, data: bytes) -> bytes:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.connect(self.address)
            await sock.send(data)
            return await sock.recv(1000)

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.address)


async def start(nursery: trio.Nursery) -> Running:
    server = await open_name_server(("127.0.0.1", 0), find, events=EVENTS)
    await nursery.start(server.run)
    return Running(server)


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


async def receive(stream: trio.SocketStream, count: int) -> bytes:
    received = b""
    while len(received) < count and (data := await stream.receive_some(count - len(received))):
        received += data
    return received


async def test_udp_and_tcp(nursery: trio.Nursery) -> None:
    running = await start(nursery)
    expected = answer_untrusted(question(), find)
    assert expected is not None
    # A message that is ignored does not delay the next one.
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.connect(running.address)
        for junk in (b"", b"x", b"\xff" * 5000, expected):
            await sock.send(junk)
        await sock.send(question())
        assert await sock.recv(1000) == expected
    assert await running.ask_udp(question()) == expected
    async with await running.connect() as stream:
        for byte in framed(question()) * 2:
            await stream.send_all(bytes([byte]))
        assert await receive(stream, 2 * len(framed(expected))) == framed(expected) * 2
        await stream.send_eof()
        assert await stream.receive_some() == b""
    for junk in (framed(b"x"), framed(b"\xff" * 5000), framed(expected)):
        async with await running.connect() as stream:
            await stream.send_all(junk)
            with suppress(trio.BrokenResourceError):  # it was closed before everything was read
                assert await stream.receive_some() == b""
    nursery.cancel_scope.cancel()
    running.server.close()


@pytest.mark.parametrize("sent", [b"", b"\0", framed(question())[:-1]])
async def test_a_resolver_that_says_nothing(autojump_clock: MockClock, nursery: trio.Nursery, sent: bytes) -> None:
    running = await start(nursery)
    async with await running.connect() as stream:
        if sent:
            await stream.send_all(sent)
        began = trio.current_time()
        with trio.fail_after(10 * name_server.IDLE_SECONDS):
            assert await stream.receive_some() == b""
        assert trio.current_time() - began == pytest.approx(name_server.IDLE_SECONDS, abs=1)
    nursery.cancel_scope.cancel()
    running.server.close()


async def test_the_oldest_connection_gives_way(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_server, "MAX_CONNECTIONS", 2)
    running = await start(nursery)
    expected = answer_untrusted(question(), find)
    assert expected is not None
    streams = []
    for _ in range(3):
        streams.append(stream := await running.connect())
        await stream.send_all(framed(question()))
        assert await receive(stream, len(framed(expected))) == framed(expected)
    assert await streams[0].receive_some() == b""
    for stream in streams[1:]:
        await stream.send_all(framed(question()))
        assert await receive(stream, len(framed(expected))) == framed(expected)
    for stream in streams:
        await stream.aclose()
    nursery.cancel_scope.cancel()
    running.server.close()


async def test_a_port_that_is_taken_with_udp_only() -> None:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as taken:
        # Not a port that the system chooses: it chooses ports for outgoing TCP connections from the same range.
        await taken.bind(("127.0.0.1", free_port()))
        with pytest.raises(ConfigurationError, match="with UDP"):
            await open_name_server(taken.getsockname(), find, events=EVENTS)
    # With port 0, another one is found.
    server = await open_name_server(("127.0.0.1", 0), find, events=EVENTS)
    server.close()
