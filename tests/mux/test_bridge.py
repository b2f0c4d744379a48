"""A stream and a TCP connection, joined: what one side sent last still reaches the other."""

from __future__ import annotations

import os
import socket

import trio
import trio.testing

from hybridrelay.mux import Bridged, MuxStream, bridge
from hybridrelay.protocol import Reason
from hybridrelay.testing import session_pair


def _sockets() -> tuple[trio.SocketStream, trio.SocketStream]:
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in socket.socketpair())
    return ours, theirs


async def _bridged(nursery: trio.Nursery, ended: list[Bridged]) -> tuple[MuxStream, trio.SocketStream]:
    """A stream, and the target to which its other end is joined."""
    client, server = await session_pair(nursery)
    stream = client.open_stream_nowait()
    theirs = (await server.offers.receive()).accept()
    local, target = _sockets()

    async def join() -> None:
        ended.append(await bridge(theirs, local))

    nursery.start_soon(join)
    return stream, target


async def test_what_was_sent_before_the_close_arrives_whatever_the_target_says_meanwhile(
    nursery: trio.Nursery,
) -> None:
    ended: list[Bridged] = []
    stream, target = await _bridged(nursery, ended)
    data = os.urandom(400_000)
    await stream.send_all(data)
    await stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    await target.send_all(b"an answer for which nobody waits any more")
    await trio.testing.wait_all_tasks_blocked()
    received = bytearray()
    while len(received) < len(data):
        some = await target.receive_some()
        assert some, "a false end of file"
        received += some
    assert received == data
    await trio.testing.wait_all_tasks_blocked()
    assert [one.reason for one in ended] == [Reason.CANCELLED]
    await target.aclose()
    nursery.cancel_scope.cancel()


async def test_a_target_that_reads_no_more_holds_nothing_for_ever(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    ended: list[Bridged] = []
    stream, target = await _bridged(nursery, ended)
    await stream.send_all(os.urandom(400_000))
    await stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    await target.send_all(b"an answer for which nobody waits any more")
    with trio.fail_after(600):
        while not ended:
            await trio.sleep(1)
    assert ended[0].reason is Reason.CANCELLED
    await target.aclose()
    nursery.cancel_scope.cancel()


async def test_cancelled_at_its_very_end_both_are_closed() -> None:
    local, target = _sockets()
    async with trio.open_nursery() as nursery:
        client, server = await session_pair(nursery)
        stream = client.open_stream_nowait()
        theirs = (await server.offers.receive()).accept()
        async with trio.open_nursery() as bridging:

            async def join() -> None:
                with trio.CancelScope() as scope:
                    close = theirs.aclose

                    async def cancelled_close() -> None:
                        scope.cancel()
                        await close()

                    theirs.aclose = cancelled_close  # type: ignore[method-assign]
                    await bridge(theirs, local)

            bridging.start_soon(join)
            await stream.send_eof()
            await target.send_eof()
        assert local.socket.fileno() == -1
        await target.aclose()
        nursery.cancel_scope.cancel()
