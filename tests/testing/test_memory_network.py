"""The network in memory refuses, delivers and closes like a real one, and transports run over it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import hybridrelay_websocket
from hybridrelay.abc import Address, Binding, Dialer, Listener
from hybridrelay.testing import MemoryNetwork


async def test_what_is_sent_is_delivered() -> None:
    network = MemoryNetwork()
    async with network.listen("relay", 9352) as listener:
        assert listener.address == ("relay", 9352)
        near = await network.dial("relay", 9352)
        far = await listener.accept()
        async with near, far:
            await near.send_all(b"x")
            assert await far.receive_some() == b"x"


async def test_dialing_is_refused_where_nothing_listens() -> None:
    network = MemoryNetwork()
    with pytest.raises(ConnectionRefusedError):
        await network.dial("relay", 1)
    listener = network.listen("relay", 1)
    with pytest.raises(OSError, match="in use"):
        network.listen("relay", 1)
    waiting = await network.dial("relay", 1)
    await listener.aclose()
    await listener.aclose()
    assert await waiting.receive_some() == b"", "dialed, and never accepted"
    await waiting.aclose()
    with pytest.raises(ConnectionRefusedError):
        await network.dial("relay", 1)
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()
    await network.listen("relay", 1).aclose()


async def test_a_full_backlog_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridrelay.testing.memory.BACKLOG", 0)
    network = MemoryNetwork()
    listener = network.listen("relay", 1)

    async def dial_refused() -> None:
        with pytest.raises(ConnectionRefusedError):
            await network.dial("relay", 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial_refused)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await network.dial("relay", 1)
        assert scope.cancelled_caught
        await listener.aclose()


async def test_close_wakes_accept() -> None:
    listener = MemoryNetwork().listen("relay", 1)

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()


async def test_carries_a_transport() -> None:
    transport = hybridrelay_websocket.transport
    network = MemoryNetwork()
    binding = Binding("relay", 80, acceptors=(network.listen("relay", 80),))

    async def echo(listener: Listener) -> None:
        connection = await (await listener.accept()).handshake()
        assert connection is not None
        async with connection.stream as stream:
            await stream.send_all(await stream.receive_some())

    async with await transport.listen(binding) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(echo, listener)
        connection = await transport.connect(Address("relay", 80), Dialer(network.dial))
        async with connection.stream as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            assert await stream.receive_some() == b""
    with pytest.raises(ConnectionRefusedError):
        await network.dial("relay", 80)
