"""A stream of a session is a trio stream, under trio's own conformance checks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from hybridrelay.errors import StreamRefused
from hybridrelay.mux import Feature, Kind, Metadata, MetadataEntry, MuxStream, SessionConfig
from hybridrelay.protocol import Reason
from hybridrelay.testing import session_pair

from ..resets import reset_reason
from .streams import open_stream

#: Gives the two ends of a channel.
Channels = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]

TINY = SessionConfig(send_queue=1024, initial_window=16 * 1024, max_window=16 * 1024)


async def _connected(
    nursery: trio.Nursery, channels: Channels, config: SessionConfig | None
) -> tuple[MuxStream, MuxStream]:
    client, server = await session_pair(nursery, channels=channels, config=config)
    return await open_stream(client, server)


@pytest.mark.parametrize("channels", [trio.testing.memory_stream_pair, trio.testing.lockstep_stream_pair])
async def test_is_a_half_closeable_stream(channels: Channels, nursery: trio.Nursery) -> None:
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
    assert reset_reason(caught.value) is Reason.CANCELLED
    nursery.cancel_scope.cancel()


async def test_the_acceptor_sees_kind_and_metadata(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery, config=SessionConfig(features=Feature.DATAGRAMS))
    metadata = Metadata([MetadataEntry(0x4001, b"hello"), MetadataEntry(9, b"unknown")])
    assert client.features == server.features == Feature.DATAGRAMS
    stream = client.open_stream_nowait(metadata=metadata)
    flow = client.open_flow_nowait(metadata=metadata)
    offer, offered_flow = await server.offers.receive(), await server.offers.receive()
    assert (offer.kind, offered_flow.kind) == (Kind.STREAM, Kind.DATAGRAMS)
    assert offer.metadata == offered_flow.metadata == metadata
    assert offer.metadata.get(0x4001) == b"hello"
    assert offer.accept().metadata == stream.metadata == metadata
    assert offered_flow.accept_flow().metadata == flow.metadata == metadata
    nursery.cancel_scope.cancel()


async def test_a_kind_that_the_acceptor_does_not_offer_is_refused(nursery: trio.Nursery) -> None:
    config = SessionConfig(features=Feature.ISSUE)
    client, server = await session_pair(nursery, config=config)
    with pytest.raises(StreamRefused) as caught:
        client.open_flow_nowait()
    assert caught.value.reason is Reason.KIND_NOT_OFFERED
    async with trio.open_nursery() as inner:
        inner.start_soon(client.open_stream)
        (await server.offers.receive()).accept()
    nursery.cancel_scope.cancel()


async def test_refusal_carries_the_reason(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)
    metadata = Metadata([MetadataEntry(0x4001, b"hello")])
    async with trio.open_nursery() as inner:

        async def refuse() -> None:
            offer = await server.offers.receive()
            assert offer.metadata == metadata
            offer.refuse(Reason.TARGET_REFUSED, "127.0.0.1:1")

        inner.start_soon(refuse)
        with pytest.raises(StreamRefused, match=r"127\.0\.0\.1:1") as caught:
            await client.open_stream(metadata=metadata)
    assert caught.value.reason is Reason.TARGET_REFUSED
    nursery.cancel_scope.cancel()
