"""A stream of a session is a trio stream, under trio's own conformance checks."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.errors import StreamRefused, StreamReset
from hybridrelay.mux import MuxStream, SessionConfig
from hybridrelay.protocol import Reason
from hybridrelay.testing import session_pair

TINY = SessionConfig(send_queue=1024, initial_window=16 * 1024, max_window=16 * 1024)


async def _connected(nursery: trio.Nursery, channels, config) -> tuple[MuxStream, MuxStream]:
    client, server = await session_pair(nursery, channels=channels, config=config)
    ours = client.open_stream_nowait()
    offer = await server.offers.receive()
    theirs = offer.accept()
    await ours.wait_opened()
    return ours, theirs


@pytest.mark.parametrize("channels", [trio.testing.memory_stream_pair, trio.testing.lockstep_stream_pair])
async def test_is_a_half_closeable_stream(channels, nursery: trio.Nursery) -> None:
    async def make() -> tuple[MuxStream, MuxStream]:
        return await _connected(nursery, channels, None)

    async def make_clogged() -> tuple[MuxStream, MuxStream]:
        ours, theirs = await _connected(nursery, channels, TINY)
        for stream in (ours, theirs):
            async with trio.open_nursery() as filling:
                filling.start_soon(stream.send_all, bytes(100_000))
                await trio.testing.wait_all_tasks_blocked()
                filling.cancel_scope.cancel()
        return ours, theirs

    await trio.testing.check_half_closeable_stream(make, make_clogged)
    nursery.cancel_scope.cancel()


async def test_leaving_by_an_exception_resets(nursery: trio.Nursery) -> None:
    ours, theirs = await _connected(nursery, trio.testing.memory_stream_pair, None)
    with pytest.raises(KeyError):  # noqa: PT012
        async with ours:
            await ours.send_all(b"half of it")
            raise KeyError
    with pytest.raises(trio.BrokenResourceError) as caught:  # noqa: PT012
        while await theirs.receive_some():
            pass
    assert isinstance(caught.value.__cause__, StreamReset)
    assert caught.value.__cause__.reason is Reason.CANCELLED
    nursery.cancel_scope.cancel()


async def test_refusal_carries_the_reason(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)
    async with trio.open_nursery() as inner:

        async def refuse() -> None:
            offer = await server.offers.receive()
            assert offer.metadata == b"hello"
            offer.refuse(Reason.TARGET_REFUSED, "127.0.0.1:1")

        inner.start_soon(refuse)
        with pytest.raises(StreamRefused, match=r"127\.0\.0\.1:1") as caught:
            await client.open_stream(b"hello")
    assert caught.value.reason is Reason.TARGET_REFUSED
    nursery.cancel_scope.cancel()
