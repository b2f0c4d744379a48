"""A relay that sends unexpected messages, or more than can be handled, loses the control channel."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.connectivity import candidates, discover
from hybridrelay.connectivity.control import (
    MAX_UNHANDLED,
    MAX_UNHANDLED_BEFORE_UPDATE,
    ControlChannel,
    _receive_welcome,
)
from hybridrelay.errors import RelayUnreachable
from hybridrelay.mux import CONTROL_CONFIG
from hybridrelay.protocol import RemoteProtocolError, control
from hybridrelay.protocol.control_codec import ControlDecoder, encode_message
from hybridrelay.protocol.preamble import TICKET_SIZE
from hybridrelay.protocol.reasons import Reason
from hybridrelay.streams.turns import MAX_FRAMES, SharedTurns
from hybridrelay.testing import session_pair

from ..waiting import patience

CARRIER = candidates(discover(), "tcp")[0]


async def test_a_flood_of_offers_ends_the_channel(nursery: trio.Nursery) -> None:
    session, relay = await session_pair(nursery, config=CONTROL_CONFIG)
    stream = session.open_stream_nowait()
    theirs = (await relay.offers.receive()).accept()
    channel = ControlChannel(session, stream, control.Welcome("0" * 32, "relay"), CARRIER)
    offer = encode_message(control.Offer(1, "db", bytes(TICKET_SIZE), 30.0))

    async def flood() -> None:
        for _ in range(MAX_UNHANDLED + 1):
            await theirs.send_all(offer)

    nursery.start_soon(flood)
    with pytest.raises(RemoteProtocolError):
        await channel._serve(ControlDecoder(), [])
    unhandled = [message async for message in channel.messages]
    assert len(unhandled) == MAX_UNHANDLED
    nursery.cancel_scope.cancel()


async def test_a_flood_of_updates_takes_little_memory(nursery: trio.Nursery) -> None:
    """The relay repeats those that are dropped; nothing else is, and the channel stays."""
    session, relay = await session_pair(nursery, config=CONTROL_CONFIG)
    stream = session.open_stream_nowait()
    theirs = (await relay.offers.receive()).accept()
    channel = ControlChannel(session, stream, control.Welcome("0" * 32, "relay"), CARRIER)
    offer = control.Offer(1, "db", bytes(TICKET_SIZE), 30.0)
    update = control.Update("db", 5, "A" * control.MAX_DOCUMENT)

    async def flood() -> None:
        for _ in range(MAX_UNHANDLED_BEFORE_UPDATE + 100):
            await theirs.send_all(encode_message(update))
        await theirs.send_all(encode_message(offer))
        await theirs.send_eof()

    nursery.start_soon(flood)
    with trio.fail_after(60):
        await channel._serve(ControlDecoder(), [])
    waiting = [message async for message in channel.messages]
    assert waiting == [update] * MAX_UNHANDLED_BEFORE_UPDATE + [offer]
    nursery.cancel_scope.cancel()


async def test_what_a_relay_sends_counts_in_turns(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each pass of the event loop, only so many messages are passed on, however many have arrived."""
    session, relay = await session_pair(nursery, config=CONTROL_CONFIG)
    stream = session.open_stream_nowait()
    theirs = (await relay.offers.receive()).accept()
    channel = ControlChannel(session, stream, control.Welcome("0" * 32, "relay"), CARRIER)
    count = 2000
    nursery.start_soon(theirs.send_all, encode_message(control.Draining(0)) * count)
    await trio.testing.wait_all_tasks_blocked()
    monkeypatch.setattr("hybridrelay.connectivity.control._READ_BYTES", 1 << 20)
    passed_on, original = 0, ControlChannel._pass_on

    def counted(self: ControlChannel, one: control.Message) -> None:
        nonlocal passed_on
        original(self, one)
        passed_on += 1

    monkeypatch.setattr(ControlChannel, "_pass_on", counted)
    nursery.start_soon(channel._serve, ControlDecoder(), [])
    most = before = 0
    with trio.fail_after(60):
        while passed_on < count:
            await trio.lowlevel.checkpoint()
            most, before = max(most, passed_on - before), passed_on
    assert most <= 2 * MAX_FRAMES
    nursery.cancel_scope.cancel()


async def test_a_second_answer_to_one_request_ends_the_channel(nursery: trio.Nursery) -> None:
    session, relay = await session_pair(nursery, config=CONTROL_CONFIG)
    stream = session.open_stream_nowait()
    theirs = (await relay.offers.receive()).accept()
    channel = ControlChannel(session, stream, control.Welcome("0" * 32, "relay"), CARRIER)
    # No time passes in a turn: both are handled before anybody is told of the first one, even on a slow machine.
    channel.turns = SharedTurns(lambda: 0.0)
    answers: list[control.Message] = []
    ended = trio.Event()

    async def serve() -> None:
        with pytest.raises(RemoteProtocolError, match="answered twice"):
            await channel._serve(ControlDecoder(), [])
        ended.set()

    async def ask() -> None:
        answers.append(await channel.join(control.Join(7, "db", "token")))

    nursery.start_soon(serve)
    nursery.start_soon(ask)
    assert await theirs.receive_some()
    good, bad = control.Joined(7, bytes(TICKET_SIZE), "1" * 32, 30.0), control.Failed(7, Reason.WRONG_KEY)
    await theirs.send_all(encode_message(good) + encode_message(bad))
    with trio.fail_after(patience(10)):
        await ended.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert answers == [good]
    assert channel.has_ended
    nursery.cancel_scope.cancel()


JOIN, REGISTER = control.Join(7, "db", "token"), control.Register(7, "db", "token")
REGISTERED, JOINED = control.Registered(7, 3600.0), control.Joined(7, bytes(TICKET_SIZE), "1" * 32, 30.0)


@pytest.mark.parametrize(("request_", "answer"), [(JOIN, REGISTERED), (REGISTER, JOINED)], ids=["join", "register"])
async def test_the_answer_to_another_kind_of_request_ends_the_channel(
    nursery: trio.Nursery, request_: control.Join | control.Register, answer: control.Message
) -> None:
    session, relay = await session_pair(nursery, config=CONTROL_CONFIG)
    stream = session.open_stream_nowait()
    theirs = (await relay.offers.receive()).accept()
    channel = ControlChannel(session, stream, control.Welcome("0" * 32, "relay"), CARRIER)
    with trio.fail_after(patience(10)):
        async with trio.open_nursery() as tasks:

            async def serve() -> None:
                with pytest.raises(RemoteProtocolError, match="another kind of request"):
                    await channel._serve(ControlDecoder(), [])

            async def request() -> control.Message:
                if isinstance(request_, control.Join):
                    return await channel.join(request_)
                return await channel.register(request_)

            async def ask() -> None:
                with pytest.raises(RelayUnreachable, match="lost"):
                    await request()

            tasks.start_soon(serve)
            tasks.start_soon(ask)
            assert await theirs.receive_some()
            await theirs.send_all(encode_message(answer))
    assert channel.has_ended
    nursery.cancel_scope.cancel()


async def test_an_answer_that_nobody_waits_for_is_ignored(nursery: trio.Nursery) -> None:
    session, relay = await session_pair(nursery, config=CONTROL_CONFIG)
    stream = session.open_stream_nowait()
    theirs = (await relay.offers.receive()).accept()
    channel = ControlChannel(session, stream, control.Welcome("0" * 32, "relay"), CARRIER)
    nursery.start_soon(channel._serve, ControlDecoder(), [])
    late = encode_message(control.Failed(3, Reason.LIMIT))
    await theirs.send_all(late + late)
    draining = control.Draining(1.0)
    await theirs.send_all(encode_message(draining))
    assert await channel.messages.receive() == draining
    assert not channel.has_ended
    nursery.cancel_scope.cancel()


WELCOME = control.Welcome("0" * 32, "relay")
REGISTERED = control.Registered(1, 2e9)


@pytest.mark.parametrize(
    ("said", "fits"),
    [([WELCOME], True), ([WELCOME, REGISTERED], True), ([REGISTERED, WELCOME], False), ([], False)],
)
async def test_the_first_message_has_to_be_the_relays_welcome(
    nursery: trio.Nursery, said: list[control.Message], fits: bool
) -> None:
    session, relay = await session_pair(nursery, config=CONTROL_CONFIG)
    stream = session.open_stream_nowait()
    theirs = (await relay.offers.receive()).accept()
    await theirs.send_all(b"".join(map(encode_message, said)))
    await theirs.send_eof()
    with trio.fail_after(patience(10)):
        if fits:
            assert await _receive_welcome(stream, ControlDecoder()) == (said[0], said[1:])
        else:
            with pytest.raises(RemoteProtocolError):
                await _receive_welcome(stream, ControlDecoder())
    nursery.cancel_scope.cancel()
