"""How sessions and streams end: once, with a reason, and an abort never looks like an end of file."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.errors import SessionError, StreamRefused
from hybridrelay.mux import Kind, Session, SessionConfig, SessionRole, refuse_session
from hybridrelay.protocol import Reason
from hybridrelay.testing import session_pair

from ..resets import reset_reason
from .streams import open_stream


@pytest.mark.parametrize("cut", ["client", "server"])
async def test_a_lost_channel_is_a_reset_on_both_sides_and_no_end_of_file(cut: str, nursery: trio.Nursery) -> None:
    ends: list[trio.abc.Stream] = []

    def channels() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        ends[:] = trio.testing.memory_stream_pair()
        return ends[0], ends[1]

    client, server = await session_pair(nursery, channels=channels)
    ours, theirs = await open_stream(client, server)
    await ours.send_all(b"half")
    assert await theirs.receive_some() == b"half"
    await trio.aclose_forcefully(ends[0 if cut == "client" else 1])
    for stream in (ours, theirs):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert reset_reason(caught.value) is Reason.SESSION_LOST
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"more")
    assert (await client.wait_ended()).reason is Reason.SESSION_LOST
    assert (await server.wait_ended()).reason is Reason.SESSION_LOST


async def test_graceful_end_waits_for_streams_and_then_tells_the_peer(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)
    ours, theirs = await open_stream(client, server)
    nursery.start_soon(_close_after, ours, theirs)
    await client.aclose(grace=30)
    assert (await client.wait_ended()).reason is Reason.NO_ERROR
    outcome = await server.wait_ended()
    assert outcome.reason is Reason.NO_ERROR
    assert outcome.by_peer


async def _close_after(ours: trio.abc.HalfCloseableStream, theirs: trio.abc.HalfCloseableStream) -> None:
    await ours.send_all(b"the last word")
    await ours.aclose()
    received = b""
    while data := await theirs.receive_some():
        received += data
    assert received == b"the last word"
    await theirs.aclose()


async def test_no_stream_opens_on_a_session_that_drains(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)
    ours, theirs = await open_stream(client, server)
    server.drain()
    await trio.testing.wait_all_tasks_blocked()
    assert not client.is_open
    with pytest.raises(StreamRefused) as caught:
        client.open_stream_nowait()
    assert caught.value.reason is Reason.GOING_AWAY
    await ours.send_all(b"goes on")
    assert await theirs.receive_some() == b"goes on"
    nursery.cancel_scope.cancel()


async def test_cancelled_run_tells_the_peer(nursery: trio.Nursery) -> None:
    client_channel, server_channel = trio.testing.memory_stream_pair()
    client, server = Session.create(SessionRole.INITIATOR), Session.create(SessionRole.ACCEPTOR)
    nursery.start_soon(server.run, server_channel)
    async with trio.open_nursery() as inner:
        await inner.start(client.run, client_channel)
        await trio.testing.wait_all_tasks_blocked()  # so that no write is in progress when `run` is cancelled
        inner.cancel_scope.cancel()
    outcome = await server.wait_ended()
    assert outcome.reason is Reason.GOING_AWAY
    assert outcome.by_peer


async def test_a_refused_session_names_the_reason() -> None:
    client_channel, server_channel = trio.testing.memory_stream_pair()
    client = Session.create(SessionRole.INITIATOR)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse_session, server_channel, Reason.IDENTITY_DENIED)
        with pytest.raises(SessionError) as caught:
            await client.run(client_channel)
    assert caught.value.reason is Reason.IDENTITY_DENIED


async def test_a_peer_that_never_greets_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = trio.testing.memory_stream_pair()
    with pytest.raises(SessionError) as caught:
        await Session.create(SessionRole.ACCEPTOR).run(ours)
    assert caught.value.reason is Reason.PEER_SILENT


@pytest.mark.parametrize("role", list(SessionRole))
async def test_garbage_ends_the_session_and_nothing_else(
    role: SessionRole, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    session = Session.create(role)
    async with trio.open_nursery() as nursery:

        async def talk() -> None:
            await theirs.send_all(b"GET / HTTP/1.1\r\nHost: relay.example.com\r\n\r\n")
            with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
                while await theirs.receive_some():
                    pass
                raise trio.BrokenResourceError

        nursery.start_soon(talk)
        with pytest.raises(SessionError) as caught:
            await session.run(ours)
    assert caught.value.reason is Reason.PROTOCOL_ERROR


async def test_cancelled_open_resets_and_the_offer_is_withdrawn(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)
    async with trio.open_nursery() as inner:
        inner.start_soon(client.open_stream)
        offer = await server.offers.receive()
        inner.cancel_scope.cancel()
    with trio.fail_after(60), trio.CancelScope() as dialing:
        offer.cancel_when_withdrawn(dialing)
        await trio.sleep_forever()
    assert dialing.cancelled_caught
    assert offer.is_withdrawn
    with trio.CancelScope() as late:
        offer.cancel_when_withdrawn(late)
    assert late.cancel_called
    stream = offer.accept()  # too late, and harmless
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    offer.refuse(Reason.LIMIT)
    nursery.cancel_scope.cancel()


async def test_an_answered_offer_cancels_nothing(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)
    stream = client.open_stream_nowait()
    offer = await server.offers.receive()
    scope = trio.CancelScope()
    offer.cancel_when_withdrawn(scope)
    offer.accept()
    stream.reset()
    await trio.testing.wait_all_tasks_blocked()
    assert offer.is_withdrawn
    assert not scope.cancel_called
    nursery.cancel_scope.cancel()


async def test_a_cancelled_send_harms_no_other_stream(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)
    one, one_far = await open_stream(client, server)
    two, two_far = await open_stream(client, server)
    async with trio.open_nursery() as sending:
        sending.start_soon(one.send_all, bytes(30_000_000))
        await trio.testing.wait_all_tasks_blocked()
        sending.cancel_scope.cancel()
    await two.send_all(b"intact")
    assert await two_far.receive_some() == b"intact"
    # The stream itself can still be used: what was queued before the cancellation arrives in whole frames.
    await one.send_eof()
    while await one_far.receive_some():
        pass
    nursery.cancel_scope.cancel()


async def test_everything_is_given_back(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    client, server = await session_pair(nursery)
    for _ in range(20):
        ours, theirs = await open_stream(client, server)
        await ours.send_all(b"x" * 100_000)
        await ours.aclose()
        while await theirs.receive_some():
            pass
        await theirs.aclose()
    await trio.sleep(5)
    for session in (client, server):
        assert session.stream_count == 0
        assert session.core.budget.base == session.core.budget.elastic == 0
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reason", [Reason.LIMIT, Reason.KIND_NOT_OFFERED, Reason.GOING_AWAY])
async def test_a_stream_that_cannot_be_opened_is_refused_with_the_true_reason(
    nursery: trio.Nursery, reason: Reason
) -> None:
    client, _ = await session_pair(nursery, config=SessionConfig(max_streams=1))
    if reason is Reason.LIMIT:
        client.open_stream_nowait()
    elif reason is Reason.GOING_AWAY:
        client.drain()
    with pytest.raises(StreamRefused) as refused:
        client.open_stream_nowait(Kind.ISSUE if reason is Reason.KIND_NOT_OFFERED else Kind.STREAM)
    assert refused.value.reason is reason
    nursery.cancel_scope.cancel()
