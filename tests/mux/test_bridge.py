"""A bridge between a stream and a TCP connection: the last bytes of one side still reach the other."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.errors import StreamRefused
from hybridrelay.mux import (
    DATA_CONFIG,
    Bridged,
    BridgeProgress,
    MuxStream,
    Offer,
    Party,
    Session,
    SessionConfig,
    bridge,
)
from hybridrelay.protocol import Reason
from hybridrelay.protocol.config import BASE_WINDOW
from hybridrelay.streams.sockets import abort_stream, reset_on_close
from hybridrelay.testing import session_pair, tcp_pair


def _sockets() -> tuple[trio.SocketStream, trio.SocketStream]:
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in socket.socketpair())
    return ours, theirs


async def outcome(
    stream: MuxStream, local: trio.SocketStream, reopen: Callable[[StreamRefused], Awaitable[MuxStream]] | None = None
) -> Bridged:
    """Bridge the two, and return the outcome once it is settled."""
    progress, settled = BridgeProgress(), trio.Event()
    await bridge(stream, local, reopen=reopen, progress=progress)
    progress.when_settled(settled.set)
    await settled.wait()
    return progress.so_far()


def carry(source: Session, sink: Session) -> None:
    """Deliver what one session has to write to the other one now, before any other task runs."""
    now = trio.current_time()
    sink._dispatch(sink.core.receive_data(b"".join(source.core.data_to_send(now)), now))


async def _bridged(nursery: trio.Nursery, ended: list[Bridged]) -> tuple[MuxStream, trio.SocketStream]:
    """A stream, and the target to which a bridge connects its other end."""
    client, server = await session_pair(nursery)
    stream = client.open_stream_nowait()
    theirs = (await server.offers.receive()).accept()
    local, target = _sockets()

    async def join() -> None:
        ended.append(await outcome(theirs, local))

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


async def test_no_more_is_read_for_a_stream_than_its_share(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """The peer reads nothing, so that what was read for it stays in memory."""
    monkeypatch.setattr("hybridrelay.mux.stream.QUEUED_PER_SESSION", 1)
    client, server = await session_pair(nursery)
    client.open_stream_nowait()
    theirs = (await server.offers.receive()).accept()
    local, target = _sockets()
    nursery.start_soon(bridge, theirs, local)
    async with trio.open_nursery() as sending:
        sending.start_soon(target.send_all, bytes(2_000_000))
        await trio.testing.wait_all_tasks_blocked()
        sending.cancel_scope.cancel()
    (core,) = server.core.streams.values()
    assert theirs.send_share == BASE_WINDOW
    assert BASE_WINDOW <= core.queued_bytes < 2 * BASE_WINDOW
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


@pytest.mark.parametrize("attempt", range(20))  # which task runs first is for trio to choose
async def test_a_reset_that_is_met_while_delivering_is_not_an_end_of_file(
    attempt: int, nursery: trio.Nursery
) -> None:
    client, server = await session_pair(nursery)
    stream = client.open_stream_nowait()
    theirs = (await server.offers.receive()).accept()
    local, target = await tcp_pair()
    ended: list[Bridged] = []

    async def join() -> None:
        ended.append(await outcome(theirs, local))

    nursery.start_soon(join)
    await stream.wait_opened()
    await trio.testing.wait_all_tasks_blocked()
    reset_on_close(target, on=True)
    target.socket.close()
    # Delivered before the reset is reported: the kernel reports it to one system call only.
    client.core.send_data(client.core.streams[stream.stream_id], b"x")
    carry(client, server)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    await trio.testing.wait_all_tasks_blocked()
    assert [one.reason for one in ended] == [Reason.TARGET_RESET]
    nursery.cancel_scope.cancel()


# --- before the peer has answered


class Application:
    """An application whose connection is bridged to a stream that has not been accepted yet."""

    def __init__(self, client: Session, server: Session) -> None:
        self.client = client
        self.server = server
        self.local, self.application = _sockets()
        self.ended: list[Bridged] = []
        #: What `reopen` was asked with.
        self.refusals: list[StreamRefused] = []
        self.refuse_again: StreamRefused | None = None

    async def reopen(self, refusal: StreamRefused) -> MuxStream:
        self.refusals.append(refusal)
        if self.refuse_again is not None:
            raise self.refuse_again
        return self.client.open_stream_nowait()

    async def join(self) -> None:
        self.ended.append(await outcome(self.client.open_stream_nowait(), self.local, self.reopen))

    async def offer(self) -> Offer:
        return await self.server.offers.receive()

    async def is_reset(self) -> bool:
        await trio.testing.wait_all_tasks_blocked()
        # A socket pair has no resets, so its outcome has to say it.
        return self.local.socket.fileno() == -1 and bool(self.ended and self.ended[0].refusal)


@pytest.fixture
async def application(nursery: trio.Nursery) -> AsyncIterator[Application]:
    made = Application(*await session_pair(nursery))
    async with made.local, made.application:
        yield made


async def read_to_its_end(stream: MuxStream) -> bytes:
    received = b""
    while some := await stream.receive_some():
        received += some
    return received


async def test_what_is_said_first_does_not_wait_for_the_answer(
    application: Application, nursery: trio.Nursery
) -> None:
    await application.application.send_all(b"who speaks first")
    nursery.start_soon(application.join)
    offer = await application.offer()
    await trio.testing.wait_all_tasks_blocked()
    assert application.server.core.streams[offer.stream_id].readable_bytes == len(b"who speaks first")
    theirs = offer.accept()
    await application.application.send_all(b", and second")
    await application.application.send_eof()
    assert await read_to_its_end(theirs) == b"who speaks first, and second"
    await theirs.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert application.ended == [Bridged(28, 0, Reason.NO_ERROR, sent_all=True, received_all=True)]


@pytest.mark.parametrize("reason", [Reason.GOING_AWAY, Reason.TARGET_REFUSED, Reason.TARGET_TIMEOUT])
@pytest.mark.parametrize("ends", [False, True])
async def test_a_stream_at_which_nobody_looked_is_opened_again_with_all_that_was_said(
    ends: bool, reason: Reason, application: Application, nursery: trio.Nursery
) -> None:
    data = os.urandom(100_000)  # more than may be sent before the answer
    await application.application.send_all(data)
    if ends:
        await application.application.send_eof()
    nursery.start_soon(application.join)
    first = await application.offer()
    await trio.testing.wait_all_tasks_blocked()
    first.refuse(reason)
    theirs = (await application.offer()).accept()
    if not ends:
        await application.application.send_eof()
    assert await read_to_its_end(theirs) == data
    await theirs.send_all(b"an answer")
    await theirs.aclose()
    assert await application.application.receive_some() == b"an answer"
    assert await application.application.receive_some() == b""
    await trio.testing.wait_all_tasks_blocked()
    assert [refusal.reason for refusal in application.refusals] == [reason]
    assert application.ended == [Bridged(len(data), 9, Reason.NO_ERROR, sent_all=True, received_all=True)]


async def test_all_that_was_said_is_said_again_though_the_answer_comes_meanwhile(nursery: trio.Nursery) -> None:
    # With so small a queue, every piece has to leave before the next one is taken.
    application = Application(*await session_pair(nursery, config=SessionConfig(send_queue=1)))
    async with application.local, application.application:
        nursery.start_soon(application.join)
        first = await application.offer()
        pieces = [b"%05d" % number for number in range(200)]
        for piece in pieces:
            await application.application.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        first.refuse(Reason.GOING_AWAY)
        theirs = (await application.offer()).accept()
        await application.application.send_eof()
        assert await read_to_its_end(theirs) == b"".join(pieces)
        await theirs.aclose()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("attempt", range(20))
async def test_a_connection_that_broke_is_not_opened_again_only_to_end_in_good_order(
    attempt: int, application: Application, nursery: trio.Nursery
) -> None:
    application.local, application.application = await tcp_pair()
    await application.application.send_all(b"insert into orders")
    nursery.start_soon(application.join)
    offer = await application.offer()
    await trio.testing.wait_all_tasks_blocked()
    reset_on_close(application.application, on=True)
    application.application.socket.close()
    # Both reach the bridge at the same time: the refusal, and the reset of the connection.
    application.server.core.refuse(application.server.core.streams[offer.stream_id], Reason.GOING_AWAY)
    carry(application.server, application.client)
    await trio.testing.wait_all_tasks_blocked()
    assert application.ended
    assert application.refusals == []
    nursery.cancel_scope.cancel()


async def test_it_is_opened_again_only_once(application: Application, nursery: trio.Nursery) -> None:
    nursery.start_soon(application.join)
    for _ in range(2):
        (await application.offer()).refuse(Reason.GOING_AWAY, "not now")
    assert await application.is_reset()
    assert len(application.refusals) == 1
    assert application.ended[0].refusal == "not now"


@pytest.mark.parametrize("says", [b"", b"insert into orders"])
async def test_what_may_have_arrived_is_never_sent_again(
    says: bytes, application: Application, nursery: trio.Nursery
) -> None:
    """The session is lost before the answer, but the target may have received the request."""
    if says:
        await application.application.send_all(says)
    nursery.start_soon(application.join)
    (await application.offer()).refuse(Reason.SESSION_LOST)
    application.refuse_again = StreamRefused("no other session either", reason=Reason.SESSION_LOST)
    assert await application.is_reset()
    assert len(application.refusals) == (0 if says else 1)


async def test_a_stream_that_was_accepted_and_reset_at_once_is_not_opened_again(
    application: Application, nursery: trio.Nursery
) -> None:
    await application.application.send_all(b"insert into orders")
    nursery.start_soon(application.join)
    offer = await application.offer()
    await trio.testing.wait_all_tasks_blocked()
    offer.accept().reset(Reason.GOING_AWAY)  # both answers arrive in one piece
    await trio.testing.wait_all_tasks_blocked()
    assert application.refusals == []
    assert [(ended.reason, ended.refusal) for ended in application.ended] == [(Reason.GOING_AWAY, None)]


async def test_a_refusal_is_passed_on_with_its_words(application: Application, nursery: trio.Nursery) -> None:
    application.refuse_again = StreamRefused("nobody listens there", reason=Reason.TARGET_REFUSED)
    nursery.start_soon(application.join)
    (await application.offer()).refuse(Reason.TARGET_REFUSED, "nobody listens there")
    assert await application.is_reset()
    assert application.ended == [Bridged(0, 0, Reason.TARGET_REFUSED, "nobody listens there", ended_by=Party.PEER)]


async def test_the_wait_for_an_answer_ends(
    autojump_clock: trio.testing.MockClock, application: Application, nursery: trio.Nursery
) -> None:
    application.refuse_again = StreamRefused("gave up", reason=Reason.TARGET_TIMEOUT)
    nursery.start_soon(application.join)
    offer = await application.offer()
    with trio.fail_after(600), trio.CancelScope() as dialing:
        offer.cancel_when_withdrawn(dialing)
        await trio.sleep_forever()
    await trio.testing.wait_all_tasks_blocked()
    assert application.ended == [Bridged(0, 0, Reason.TARGET_TIMEOUT, "gave up", ended_by=Party.PEER)]


async def test_what_may_be_accepted_just_now_is_not_sent_again(
    autojump_clock: trio.testing.MockClock, application: Application, nursery: trio.Nursery
) -> None:
    """The peer has not answered in time, and nobody knows whether it will."""
    await application.application.send_all(b"insert into orders")
    nursery.start_soon(application.join)
    offer = await application.offer()
    with trio.fail_after(600), trio.CancelScope() as dialing:
        offer.cancel_when_withdrawn(dialing)
        await trio.sleep_forever()
    await trio.testing.wait_all_tasks_blocked()
    assert application.refusals == []
    assert [(ended.reason, ended.refusal) for ended in application.ended] == [
        (Reason.TARGET_TIMEOUT, "no answer to OPEN in time")
    ]


class Watched:
    """A bridge between a stream and a target, and what it reports."""

    def __init__(self, client: Session, stream: MuxStream, target: trio.SocketStream) -> None:
        self.client = client
        self.stream = stream
        self.target = target
        self.progress = BridgeProgress()
        self.scope = trio.CancelScope()
        #: Set when the outcome of the bridge is known, whatever ended it.
        self.over = trio.Event()

    @classmethod
    async def start(cls, nursery: trio.Nursery) -> Watched:
        client, server = await session_pair(nursery)
        stream = client.open_stream_nowait()
        theirs = (await server.offers.receive()).accept()
        local, target = await tcp_pair()
        made = cls(client, stream, target)

        async def join() -> None:
            with made.scope:
                await bridge(theirs, local, progress=made.progress)
            made.progress.when_settled(made.over.set)

        nursery.start_soon(join)
        return made

    async def say(self) -> None:
        """Five bytes to the target, seven to the application."""
        await self.stream.send_all(b"query")
        assert await self.target.receive_some() == b"query"
        await self.target.send_all(b"answers")
        assert await self.stream.receive_some() == b"answers"


@pytest.mark.parametrize("how", ["finished", "goodbye", "target", "application", "session", "cancelled"])
async def test_what_has_moved_and_which_side_ended_it_is_known_whatever_ended_it(
    nursery: trio.Nursery, how: str
) -> None:
    watched = await Watched.start(nursery)
    assert watched.progress.so_far() == Bridged(0, 0, Reason.NO_ERROR)
    await watched.say()
    assert watched.progress.so_far() == Bridged(7, 5, Reason.NO_ERROR)
    expected = Bridged(7, 5, Reason.NO_ERROR)
    match how:
        case "finished":
            await watched.stream.send_eof()
            await watched.target.send_eof()
            expected = Bridged(7, 5, Reason.NO_ERROR, sent_all=True, received_all=True)
        case "goodbye":  # of PostgreSQL inside TLS
            await watched.stream.send_eof()
            assert await watched.target.receive_some() == b""
            await abort_stream(watched.target)
            expected = Bridged(7, 5, Reason.TARGET_RESET, received_all=True, ended_by=Party.LOCAL)
        case "target":
            await abort_stream(watched.target)
            expected = Bridged(7, 5, Reason.TARGET_RESET, ended_by=Party.LOCAL)
        case "application":
            watched.stream.reset(Reason.TARGET_RESET)
            expected = Bridged(7, 5, Reason.TARGET_RESET, ended_by=Party.PEER)
        case "session":
            watched.client.close(Reason.IDENTITY_DENIED)
            expected = Bridged(7, 5, Reason.IDENTITY_DENIED, ended_by=Party.SESSION)
        case _:
            watched.scope.cancel()
            expected = Bridged(7, 5, Reason.CANCELLED, ended_by=Party.CALLER)
    with trio.fail_after(60):
        await watched.over.wait()
    assert watched.progress.so_far() == expected
    await watched.target.aclose()
    nursery.cancel_scope.cancel()


#: More than the peer's window: the rest stays queued until the peer reads.
LONG = bytes(300_000)
QUEUED_ENDS = ["reads", "resets", "closes", "loses the session"]


@pytest.mark.parametrize("peer_ended", [False, True])
@pytest.mark.parametrize("how", QUEUED_ENDS)
async def test_what_was_queued_and_dropped_is_not_reported_as_delivered(
    nursery: trio.Nursery, how: str, peer_ended: bool
) -> None:
    """The target has sent its end of file, which is queued after bytes for which the peer has no room."""
    watched = await Watched.start(nursery)
    stream, sent = watched.stream, DATA_CONFIG.initial_window
    await watched.target.send_all(LONG)
    await watched.target.send_eof()
    if peer_ended:
        await stream.send_eof()
        assert await watched.target.receive_some() == b""
    await trio.testing.wait_all_tasks_blocked()
    assert watched.progress.so_far() == Bridged(len(LONG), 0, Reason.NO_ERROR, received_all=peer_ended)
    expected = Bridged(sent, 0, Reason.TARGET_RESET, received_all=peer_ended)
    match how:
        case "reads":
            received = 0
            while some := await stream.receive_some():
                received += len(some)
            assert received == len(LONG)
            await stream.send_eof()
            expected = Bridged(len(LONG), 0, Reason.NO_ERROR, sent_all=True, received_all=True)
        case "resets":
            stream.reset(Reason.TARGET_RESET)
            expected = attrs.evolve(expected, ended_by=Party.PEER)
        case "closes":
            await stream.aclose()
            expected = Bridged(sent, 0, Reason.CANCELLED, received_all=True, peer_stopped=True, ended_by=Party.PEER)
        case _:
            watched.client.close(Reason.IDENTITY_DENIED)
            expected = attrs.evolve(expected, reason=Reason.IDENTITY_DENIED, ended_by=Party.SESSION)
    with trio.fail_after(60):
        await watched.over.wait()
    assert watched.progress.so_far() == expected
    await watched.target.aclose()
    nursery.cancel_scope.cancel()


async def test_a_bridge_that_is_cancelled_with_queued_bytes_has_not_delivered_them(nursery: trio.Nursery) -> None:
    watched = await Watched.start(nursery)
    await watched.target.send_all(LONG)
    await watched.target.send_eof()
    await trio.testing.wait_all_tasks_blocked()
    watched.scope.cancel()
    await watched.over.wait()
    expected = Bridged(DATA_CONFIG.initial_window, 0, Reason.CANCELLED, ended_by=Party.CALLER)
    assert watched.progress.so_far() == expected
    await watched.target.aclose()
    nursery.cancel_scope.cancel()


async def test_a_peer_that_resets_at_the_end_of_what_it_read_has_received_everything(nursery: trio.Nursery) -> None:
    """Its acknowledgement precedes its reset."""
    watched = await Watched.start(nursery)
    await watched.target.send_all(b"all")
    await watched.target.send_eof()
    assert await watched.stream.receive_some() == b"all"
    assert await watched.stream.receive_some() == b""
    watched.stream.reset(Reason.TARGET_RESET)
    await watched.over.wait()
    assert watched.progress.so_far() == Bridged(3, 0, Reason.TARGET_RESET, sent_all=True, ended_by=Party.PEER)
    await watched.target.aclose()
    nursery.cancel_scope.cancel()


async def test_an_end_that_was_acknowledged_before_the_stream_was_accepted(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)
    local, application = _sockets()
    progress, settled = BridgeProgress(), trio.Event()

    async def join() -> None:
        await bridge(client.open_stream_nowait(), local, progress=progress)
        progress.when_settled(settled.set)

    nursery.start_soon(join)
    await application.send_eof()
    offer = await server.offers.receive()
    with trio.fail_after(60):
        while client.core.unacknowledged_bytes:
            await trio.sleep(0.01)
    theirs = offer.accept()
    await theirs.aclose()
    with trio.fail_after(60):
        await settled.wait()
    assert progress.so_far() == Bridged(0, 0, Reason.NO_ERROR, sent_all=True, received_all=True)
    await application.aclose()
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform == "win32", reason="the option has another layout there")
async def test_a_process_that_is_killed_ends_no_connection_in_good_order(nursery: trio.Nursery) -> None:
    """While the bridge lasts, the kernel is told to reset the TCP connection, whatever closes it."""
    client, server = await session_pair(nursery)
    client.open_stream_nowait()
    theirs = (await server.offers.receive()).accept()
    local, target = await tcp_pair()
    nursery.start_soon(bridge, theirs, local)
    await trio.testing.wait_all_tasks_blocked()
    on, seconds = struct.unpack("ii", local.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
    assert (bool(on), seconds) == (True, 0)
    await target.aclose()
    nursery.cancel_scope.cancel()
