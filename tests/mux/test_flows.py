"""Flows of datagrams between two sessions, in virtual time."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay.errors import StreamRefused
from hybridrelay.mux import (
    DatagramFlow,
    Feature,
    FlowEnd,
    Kind,
    Party,
    Session,
    SessionConfig,
    SessionRole,
    receive_hello,
)
from hybridrelay.mux._stream_ends import SETTLING_SECONDS
from hybridrelay.mux._unanswered import UnansweredStreams
from hybridrelay.mux.stream import OPENING_SECONDS
from hybridrelay.protocol import Reason
from hybridrelay.protocol.datagrams import MAX_QUEUED_DATAGRAMS, MAX_WAIT_SECONDS, Dropped
from hybridrelay.testing.sessions import session_pair

CONFIG = SessionConfig(features=Feature.DATAGRAMS, resume_deadline=30)


async def flow_pair(nursery: trio.Nursery) -> tuple[DatagramFlow, DatagramFlow, Session, Session]:
    """A flow that the server has accepted, and both sessions."""
    client, server = await session_pair(nursery, config=CONFIG)
    ours, theirs = await open_flow(client, server)
    return ours, theirs, client, server


async def open_flow(client: Session, server: Session) -> tuple[DatagramFlow, DatagramFlow]:
    ours = client.open_flow_nowait()
    offer = await server.offers.receive()
    assert offer.kind is Kind.DATAGRAMS
    theirs = offer.accept_flow()
    await ours.wait_opened()
    return ours, theirs


def ends_of(flow: DatagramFlow) -> list[FlowEnd]:
    ends: list[FlowEnd] = []
    flow.set_end_callback(ends.append)
    return ends


async def test_datagrams_go_both_ways(nursery: trio.Nursery) -> None:
    ours, theirs, client, server = await flow_pair(nursery)
    for one, other in ((ours, theirs), (theirs, ours)):
        await one.send(b"")
        await one.send(b"x" * 65_507)
        one.send_nowait(b"last")
        assert [await other.receive() for _ in range(3)] == [b"", b"x" * 65_507, b"last"]
        assert other.receive_nowait() is None
    progress = ours.so_far()
    assert (progress.sent, progress.received, progress.bytes_sent, progress.bytes_received) == (3, 3, 65_511, 65_511)
    assert progress.dropped == Dropped()
    assert client.bytes_sent == server.bytes_received == 65_511
    assert ours.session_id == theirs.session_id
    assert ours.stream_id == theirs.stream_id
    nursery.cancel_scope.cancel()


async def test_datagrams_may_be_sent_before_the_flow_is_accepted(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery, config=CONFIG)
    ours = client.open_flow_nowait()
    await ours.send(b"request")
    offer = await server.offers.receive()
    assert repr(ours) == "<DatagramFlow 1 AWAITING/OPEN>"
    theirs = offer.accept_flow()
    assert await theirs.receive() == b"request"
    await theirs.send(b"reply")
    assert await ours.receive() == b"reply"
    assert ours.was_accepted
    assert repr(ours) == "<DatagramFlow 1 ANSWERED/OPEN>"
    nursery.cancel_scope.cancel()


async def test_a_receiver_waits_and_may_be_cancelled(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs, _, _ = await flow_pair(nursery)
    with trio.move_on_after(1) as scope:
        await theirs.receive()
    assert scope.cancelled_caught

    async def send_later() -> None:
        await trio.sleep(5)
        await ours.send(b"later")

    nursery.start_soon(send_later)
    began = trio.current_time()
    assert await theirs.receive() == b"later"
    assert trio.current_time() == pytest.approx(began + 5)
    with trio.CancelScope() as cancelled:
        cancelled.cancel()
        await ours.send(b"never")
    assert theirs.receive_nowait() is None
    nursery.cancel_scope.cancel()


async def test_only_one_task_receives(nursery: trio.Nursery) -> None:
    _, theirs, _, _ = await flow_pair(nursery)
    nursery.start_soon(theirs.receive)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError):
        await theirs.receive()
    nursery.cancel_scope.cancel()


async def test_what_nobody_receives_in_time_is_dropped(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs, _, server = await flow_pair(nursery)
    await ours.send(b"old")
    await trio.sleep(MAX_WAIT_SECONDS + 0.1)
    await ours.send(b"new")
    assert await theirs.receive() == b"new"
    for number in range(MAX_QUEUED_DATAGRAMS + 3):
        await ours.send(b"%d" % number)
    await trio.testing.wait_all_tasks_blocked()
    assert server.memory_use().unread > 0
    assert await theirs.receive() == b"3"
    assert theirs.so_far().dropped == Dropped(queue=3, age=1)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("closer", ["opener", "acceptor"])
async def test_closing_ends_the_flow_for_both(nursery: trio.Nursery, closer: str) -> None:
    ours, theirs, client, server = await flow_pair(nursery)
    one, other = (ours, theirs) if closer == "opener" else (theirs, ours)
    one_ends, other_ends = ends_of(one), ends_of(other)
    changes = []
    other.set_watcher(lambda: changes.append(other.has_ended))
    await one.send(b"last")
    await one.aclose()
    await one.aclose()
    assert await other.receive() == b"last"
    with pytest.raises(trio.EndOfChannel):
        await other.receive()
    assert changes[-1] is True
    with pytest.raises(trio.BrokenResourceError, match="the peer has ended the flow"):
        await other.send(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await one.send(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await one.receive()
    await other.aclose()
    assert [(end.ended_by, end.reason) for end in one_ends] == [(Party.LOCAL, Reason.NO_ERROR)]
    assert [(end.ended_by, end.reason) for end in other_ends] == [(Party.PEER, Reason.NO_ERROR)]
    assert other_ends[0].progress.received == 1
    await client.aclose(grace=5)
    assert (await server.wait_ended()).reason is Reason.NO_ERROR


async def test_a_flow_that_was_closed_before_it_is_accepted(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery, config=CONFIG)
    async with client.open_flow_nowait() as ours:
        await ours.send(b"fire and forget")
    await trio.testing.wait_all_tasks_blocked()
    theirs = (await server.offers.receive()).accept_flow()
    ends = ends_of(theirs)
    assert [end.ended_by for end in ends] == [Party.PEER]
    assert await theirs.receive() == b"fire and forget"
    with pytest.raises(trio.EndOfChannel):
        await theirs.receive()
    nursery.cancel_scope.cancel()


async def test_a_flow_that_was_closed_counts_as_unanswered_only_for_some_seconds(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The peer never answers."""
    client, server = await session_pair(nursery, config=CONFIG)
    client.unanswered = UnansweredStreams(1)
    async with client.open_flow_nowait() as ours:
        await ours.send(b"fire and forget")
    (end,) = ends_of(ours)
    assert (end.ended_by, end.reason) == (Party.LOCAL, Reason.NO_ERROR)
    offer = await server.offers.receive()
    await trio.sleep(OPENING_SECONDS - 1)
    before = (offer.withdrawn_reason, client.unanswered.may_open_now)
    assert before == (Reason.NO_ERROR, False)
    with trio.fail_after(1 + SETTLING_SECONDS), pytest.raises(StreamRefused, match="no answer"):
        await ours.wait_opened()
    assert client.unanswered.may_open_now
    await trio.sleep(1)  # an acknowledgement may be delayed
    assert offer.withdrawn_reason is Reason.TARGET_TIMEOUT
    assert client.stream_count == server.stream_count == 0
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", ["accepted", "refused"])
async def test_a_flow_that_was_closed_may_be_answered_late(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, answer: str
) -> None:
    client, server = await session_pair(nursery, config=CONFIG)
    client.unanswered = UnansweredStreams(1)
    async with client.open_flow_nowait() as ours:
        await ours.send(b"fire and forget")
    offer = await server.offers.receive()
    await trio.sleep(OPENING_SECONDS - 1)
    if answer == "accepted":
        theirs = offer.accept_flow()
        (end,) = ends_of(theirs)
    else:
        offer.refuse(Reason.TARGET_REFUSED)
    await trio.testing.wait_all_tasks_blocked()
    assert client.unanswered.may_open_now
    await trio.sleep(OPENING_SECONDS + SETTLING_SECONDS)
    expected = Reason.NO_ERROR if answer == "accepted" else Reason.TARGET_REFUSED
    assert ours.reset_reason is expected
    if answer == "accepted":
        assert (end.ended_by, end.reason, theirs.reset_reason) == (Party.PEER, Reason.NO_ERROR, Reason.NO_ERROR)
    nursery.cancel_scope.cancel()


async def test_a_reset_carries_its_reason(nursery: trio.Nursery) -> None:
    ours, theirs, _, _ = await flow_pair(nursery)
    ends = ends_of(ours)
    with trio.CancelScope() as scope:
        ours.cancel_when_aborted(scope)
        theirs.reset(Reason.TARGET_REFUSED, "port unreachable")
        await trio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError, match="port unreachable"):
        await ours.receive()
    with pytest.raises(trio.BrokenResourceError):
        await ours.send(b"x")
    assert (ends[0].ended_by, ends[0].reason, ends[0].text) == (Party.PEER, Reason.TARGET_REFUSED, "port unreachable")
    assert ours.reset_reason is Reason.TARGET_REFUSED
    assert ends[0].was_accepted
    nursery.cancel_scope.cancel()


async def test_a_reset_that_arrives_together_with_a_datagram(nursery: trio.Nursery) -> None:
    channels = trio.testing.memory_stream_pair()
    client, server = await session_pair(nursery, channels=lambda: channels, config=CONFIG)
    ours = client.open_flow_nowait()
    await ours.send(b"first")
    theirs = (await server.offers.receive()).accept_flow()
    ends = ends_of(theirs)
    await trio.testing.wait_all_tasks_blocked()
    # From now on, keep back what the client writes.
    deliver, channels[0].send_stream.send_all_hook = channels[0].send_stream.send_all_hook, None
    assert deliver is not None
    await ours.send(b"second")
    await trio.testing.wait_all_tasks_blocked()
    ours.reset(Reason.INTERNAL_ERROR, "broken")
    await trio.testing.wait_all_tasks_blocked()
    await deliver()
    await trio.testing.wait_all_tasks_blocked()
    assert [(end.ended_by, end.reason, end.text) for end in ends] == [(Party.PEER, Reason.INTERNAL_ERROR, "broken")]
    with pytest.raises(trio.BrokenResourceError, match="broken"):
        theirs.receive_nowait()
    nursery.cancel_scope.cancel()


async def test_a_refusal_carries_its_reason(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery, config=CONFIG)
    ours = client.open_flow_nowait()
    (await server.offers.receive()).refuse(Reason.DENIED_BY_POLICY, "no")
    with pytest.raises(StreamRefused, match="no") as caught:
        await ours.wait_opened()
    assert caught.value.reason is Reason.DENIED_BY_POLICY
    (end,) = ends_of(ours)
    assert (end.ended_by, end.was_accepted) == (Party.PEER, False)
    nursery.cancel_scope.cancel()


async def test_an_offer_that_is_withdrawn_is_left_out(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery, config=CONFIG)
    ours = client.open_flow_nowait()
    ours.reset()
    await trio.testing.wait_all_tasks_blocked()
    again = client.open_flow_nowait()
    offer = await server.offers.receive()
    assert offer.stream_id == again.stream_id
    nursery.cancel_scope.cancel()


async def test_the_end_of_the_session_ends_its_flows(nursery: trio.Nursery) -> None:
    ours, theirs, client, _ = await flow_pair(nursery)
    ends, other_ends = ends_of(ours), ends_of(theirs)
    client.close(Reason.GOING_AWAY)
    with pytest.raises(trio.BrokenResourceError):
        await theirs.receive()
    assert [end.ended_by for end in ends + other_ends] == [Party.SESSION, Party.SESSION]


async def test_flows_continue_over_another_channel(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    first, second = trio.testing.memory_stream_pair(), trio.testing.memory_stream_pair()

    async def reconnect() -> trio.abc.Stream:
        await trio.sleep(3)
        return second[0]

    client, server = (
        Session.create(SessionRole.INITIATOR, config=CONFIG),
        Session.create(SessionRole.ACCEPTOR, config=CONFIG),
    )
    nursery.start_soon(server.run, first[1])
    await nursery.start(partial(client.run, first[0], reconnect=reconnect))
    ours, theirs = await open_flow(client, server)
    client.drop_channel()
    ours.send_nowait(b"late by then")
    _, initial = await receive_hello(second[1])
    await server.replace_channel(second[1], initial)
    await client.wait_attached()
    await ours.send(b"over the new channel")
    assert await theirs.receive() == b"over the new channel"
    assert ours.so_far().dropped == Dropped(age=1)
    nursery.cancel_scope.cancel()
