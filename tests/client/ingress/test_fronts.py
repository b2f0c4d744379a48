"""The shell of fronts: slow and silent applications, and many of them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock

from hybridrelay.client import open_port
from hybridrelay.client.ingress import fronts, replies
from hybridrelay.client.ingress.fronts import Found, Front
from hybridrelay.client.ingress.http_connect import HttpConnectHandshake
from hybridrelay.client.ingress.socks import SocksHandshake
from hybridrelay.events import Event, EventStream, FrontListening, FrontOpenToOthers, FrontRequestRefused

SOCKS = b"\x05\x01\x00"
CONNECT = b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"


class Scene:
    """A front that publishes nothing."""

    def __init__(self) -> None:
        self.published: list[Event] = []
        self.wanted: list[str] = []
        #: What is found, whatever is wanted.
        self.found: Found | None = None
        self.port = 0

    @asynccontextmanager
    async def running(self, kind: str = "socks", host: str = "127.0.0.1") -> AsyncIterator[None]:
        make: Callable[[], SocksHandshake | HttpConnectHandshake]
        make = SocksHandshake if kind == "socks" else HttpConnectHandshake
        events = EventStream(self.published.append)
        port = await open_port((host, 0), events=events)

        def find(wanted: object) -> Found | None:
            self.wanted.append(str(wanted))
            return self.found

        front = Front(kind, port, make, requires_password=lambda: True, find=find, events=events)
        self.port = port.bound[0][1]
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(front.run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            port.close()

    @property
    def refusals(self) -> list[str]:
        return [event.detail for event in self.published if isinstance(event, FrontRequestRefused)]

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


async def ends(stream: trio.SocketStream) -> bytes:
    """Everything until the end of the connection, even if it is reset."""
    received = b""
    try:
        async for data in stream:
            received += data
    except trio.BrokenResourceError:
        received += b"<reset>"
    return received


@pytest.mark.parametrize("sent", [b"", SOCKS, SOCKS + b"\x05\x01\x00\x03"])
async def test_an_application_that_says_nothing(autojump_clock: MockClock, sent: bytes) -> None:
    scene = Scene()
    async with scene.running(), await scene.connect() as stream:
        if sent:
            await stream.send_all(sent)
        began = trio.current_time()
        assert await ends(stream) == (b"\x05\x00" if sent else b"") + b"<reset>"
        assert trio.current_time() - began <= fronts.HANDSHAKE_SECONDS
    assert scene.refusals == ["the application has not sent its request in time"]


@pytest.mark.parametrize(
    ("kind", "request_"), [("socks", SOCKS + b"\x05\x01\x00\x03\x01a\x00\x01"), ("http", CONNECT)]
)
async def test_one_byte_at_a_time(kind: str, request_: bytes) -> None:
    """The reply is read, and the connection ends without a reset."""
    scene = Scene()
    async with scene.running(kind), await scene.connect() as stream:
        for byte in request_:
            await stream.send_all(bytes([byte]))
            await trio.lowlevel.checkpoint()
        received = await ends(stream)
    assert scene.wanted == ["a:1"]
    assert not received.endswith(b"<reset>")
    assert received.startswith(b"\x05\x00\x05\x02" if kind == "socks" else b"HTTP/1.1 403 ")
    assert scene.refusals == ["this forward does not publish this host and port"]


async def test_an_application_that_leaves(nursery: trio.Nursery) -> None:
    scene = Scene()
    async with scene.running():
        for sent in (b"", SOCKS):
            async with await scene.connect() as stream:
                if sent:
                    await stream.send_all(sent)
                await stream.send_eof()
                assert (await ends(stream)).removesuffix(b"<reset>") in (b"", b"\x05\x00")
    assert scene.refusals == []


async def fails(stream: trio.SocketStream) -> None:
    """Send until the connection is found to be reset."""
    with suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(b"x")


async def test_the_oldest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "MAX_HANDSHAKES", 2)
    scene = Scene()
    async with scene.running():
        first, second = await scene.connect(), await scene.connect()
        for stream in (first, second):  # so that both have been accepted
            await stream.send_all(SOCKS)
            assert await stream.receive_some() == b"\x05\x00"
        third = await scene.connect()
        assert await ends(first) == b"<reset>"
        for stream, sent in ((second, b""), (third, SOCKS)):
            await stream.send_all(sent + b"\x05\x01\x00\x03\x01a\x00\x01")
            assert b"\x05\x02" in await ends(stream)
        for stream in (first, second, third):
            await stream.aclose()


async def test_a_refused_connection_that_is_not_closed_gives_way_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts until it is closed, and is reset before a handshake is ended."""
    monkeypatch.setattr(fronts, "MAX_HANDSHAKES", 3)
    monkeypatch.setattr(replies, "_LINGER_SECONDS", math.inf)
    scene = Scene()
    async with scene.running():
        waiting = await scene.connect()
        await waiting.send_all(SOCKS)
        assert await waiting.receive_some() == b"\x05\x00"
        refused = []
        for _ in range(5):
            stream = await scene.connect()
            refused.append(stream)
            await stream.send_all(SOCKS)
            assert await stream.receive_some() == b"\x05\x00"
            await stream.send_all(b"\x05\x01\x00\x03\x01a\x00\x01")
            assert b"\x05\x02" in await stream.receive_some()
        with trio.fail_after(60):
            for stream in refused[:3]:
                await fails(stream)
        await waiting.send_all(b"\x05\x01\x00\x03\x01a\x00\x01")
        assert b"\x05\x02" in await waiting.receive_some()
        for stream in (waiting, *refused):
            await stream.aclose()


@pytest.mark.parametrize(
    ("kind", "request_"), [("socks", SOCKS + b"\x05\x01\x00\x03\x01a\x00\x01"), ("http-proxy", CONNECT)]
)
async def test_what_follows_a_request_is_left_for_the_target(kind: str, request_: bytes) -> None:
    """Even if it arrives in one piece with the request."""
    left: list[bytes] = []
    served = trio.Event()

    class Served:
        def serve_answered(self, local: trio.SocketStream, _handshake: object, _port: int | None) -> None:
            left.append(local.socket._sock.recv(100))  # type: ignore[attr-defined]
            local.socket.close()
            served.set()

    scene = Scene()
    scene.found = Found(Served())  # type: ignore[arg-type]
    async with scene.running(kind):
        async with await scene.connect() as stream:
            await stream.send_all(request_ + b"early")
            with trio.fail_after(60):
                await served.wait()
    assert left == [b"early"]


async def test_an_address_that_other_machines_can_reach() -> None:
    scene = Scene()
    async with scene.running(host="0.0.0.0"):
        pass
    listening, others = scene.published
    address = (f"0.0.0.0:{scene.port}",)
    assert listening == FrontListening(front="socks", addresses=address)
    assert others == FrontOpenToOthers(front="socks", addresses=address, requires_password=True)
