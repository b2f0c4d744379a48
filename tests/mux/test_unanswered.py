"""How many streams of a session wait for an answer, and who waits to open others."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.mux._unanswered import UnansweredStreams
from hybridrelay.protocol import Reason
from hybridrelay.testing import session_pair


class Openers:
    """Tasks that open streams, as many as are allowed."""

    def __init__(self, unanswered: UnansweredStreams, nursery: trio.Nursery) -> None:
        self._unanswered = unanswered
        self._nursery = nursery
        #: The ids of the streams, in the order in which they were opened.
        self.opened: list[int] = []

    def start(self, stream_id: int) -> trio.CancelScope:
        scope = trio.CancelScope()
        self._nursery.start_soon(self._open, stream_id, scope)
        return scope

    async def _open(self, stream_id: int, scope: trio.CancelScope) -> None:
        with scope:
            await self._unanswered.wait_to_open()
            self._unanswered.opened(stream_id)
            self.opened.append(stream_id)


async def test_others_wait_for_answers_in_their_order(nursery: trio.Nursery) -> None:
    unanswered = UnansweredStreams(2)
    openers = Openers(unanswered, nursery)
    for stream_id in range(6):
        openers.start(stream_id)
        await trio.testing.wait_all_tasks_blocked()
    assert openers.opened == [0, 1]
    unanswered.answered(1)
    assert not unanswered.may_open_now, "another task has waited longer"
    unanswered.answered(1)
    unanswered.answered(99)
    await trio.testing.wait_all_tasks_blocked()
    assert openers.opened == [0, 1, 2]
    unanswered.answered(0)
    unanswered.answered(2)
    await trio.testing.wait_all_tasks_blocked()
    # Which of the two that were woken at the same time runs first is for Trio to choose.
    assert openers.opened[:3] == [0, 1, 2]
    assert sorted(openers.opened) == [0, 1, 2, 3, 4]


async def test_one_that_is_cancelled_does_not_keep_others_waiting(nursery: trio.Nursery) -> None:
    unanswered = UnansweredStreams(1)
    openers = Openers(unanswered, nursery)
    scopes = []
    for stream_id in range(4):
        scopes.append(openers.start(stream_id))
        await trio.testing.wait_all_tasks_blocked()
    scopes[1].cancel()
    await trio.testing.wait_all_tasks_blocked()
    unanswered.answered(0)
    scopes[2].cancel()  # it was woken already, and opens its stream
    await trio.testing.wait_all_tasks_blocked()
    assert openers.opened == [0, 2]
    unanswered.answered(2)
    await trio.testing.wait_all_tasks_blocked()
    assert openers.opened == [0, 2, 3]


async def test_at_the_end_nobody_waits(nursery: trio.Nursery) -> None:
    unanswered = UnansweredStreams(1)
    openers = Openers(unanswered, nursery)
    for stream_id in range(3):
        openers.start(stream_id)
        await trio.testing.wait_all_tasks_blocked()
    unanswered.stop_waiting()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(openers.opened) == [0, 1, 2]
    assert unanswered.may_open_now


@pytest.mark.parametrize("how", ["accepted", "refused", "reset by this side", "closed by this side"])
async def test_a_stream_of_a_session_is_answered(nursery: trio.Nursery, how: str) -> None:
    client, server = await session_pair(nursery)
    client.unanswered = UnansweredStreams(1)
    stream = client.open_stream_nowait()
    before = client.unanswered.may_open_now
    assert not before
    if how == "reset by this side":
        stream.reset()
    elif how == "closed by this side":
        await stream.aclose()
    else:
        offer = await server.offers.receive()
        if how == "accepted":
            offer.accept()
        else:
            offer.refuse(Reason.TARGET_REFUSED)
        await trio.testing.wait_all_tasks_blocked()
    assert client.unanswered.may_open_now
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["the peer drains", "this side drains", "it is closed"])
async def test_a_session_that_opens_no_more_streams_lets_nobody_wait(nursery: trio.Nursery, how: str) -> None:
    client, server = await session_pair(nursery)
    client.unanswered = UnansweredStreams(1)
    client.open_stream_nowait()
    await server.offers.receive()
    async with trio.open_nursery() as waiting:
        waiting.start_soon(client.unanswered.wait_to_open)
        await trio.testing.wait_all_tasks_blocked()
        if how == "the peer drains":
            server.drain()
        elif how == "this side drains":
            client.drain()
        else:
            client.close()
    nursery.cancel_scope.cancel()
