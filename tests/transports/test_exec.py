"""Errors if a command leads to no relay, or if something else than a client connects to the relay; and the frames."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.abc import Address, Binding, Dialer
from hybridrelay.errors import TransportError
from hybridrelay.failure import FailureKind
from hybridrelay.streams.listening import StreamListener
from hybridrelay.testing import tcp_pair
from hybridrelay_exec import FramedStream, transport


async def connect_to(printed: bytes) -> None:
    """Connect to a command that prints this and has ended before anything is sent to it."""

    async def process() -> trio.abc.HalfCloseableStream:
        near, far = trio.testing.memory_stream_pair()
        if printed:
            await far.send_all(printed)
        await far.aclose()
        return near

    async def tcp(host: str, port: int) -> trio.abc.Stream:
        raise AssertionError("nothing but a command is used")

    await transport.connect(Address("relay.example.com", 0), Dialer(tcp, process=process))


async def test_the_output_of_a_command_that_has_ended_is_shown() -> None:
    with pytest.raises(TransportError, match="it says 'Welcome!'") as caught:
        await connect_to(b"Welcome!")
    assert "relay-stdio" in (caught.value.remedy or "")


async def test_a_command_that_prints_nothing() -> None:
    with pytest.raises(TransportError, match="ended before the relay answered") as caught:
        await connect_to(b"")
    assert caught.value.failure.kind is FailureKind.CLOSED_EARLY


@pytest.mark.parametrize(
    ("sent", "text"), [(b"", "before the greeting"), (b"SSH-2.0", "what connects .*: it says 'SSH-2.0'")]
)
async def test_a_client_that_does_not_greet(sent: bytes, text: str) -> None:
    near, far = await tcp_pair()
    async with await transport.listen(Binding("127.0.0.1", 0)) as listener, far:
        if sent:
            await far.send_all(sent)
        await far.send_eof()
        assert isinstance(listener, StreamListener)
        with pytest.raises(TransportError, match=text):
            await listener.incoming(near, "local").handshake()
    assert near.socket.fileno() == -1


async def receive_to_the_end(stream: trio.abc.ReceiveStream) -> None:
    while data := await stream.receive_some():
        assert data == b"a"


@pytest.mark.parametrize("sent", [b"\0\0", b"\0\0\0\x02a", b"\0\0\0\x01ab", b"\xff\xff\xff\xff", b"\0\0\0\0x", b""])
async def test_only_an_announced_end_is_an_end(sent: bytes) -> None:
    near, far = await tcp_pair()
    async with far, FramedStream(near) as stream:
        if sent:
            await far.send_all(sent)
        await far.send_eof()
        with pytest.raises(trio.BrokenResourceError):
            await receive_to_the_end(stream)
