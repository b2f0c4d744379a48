"""When output is written to a channel: immediately, or with what follows; and who is informed of what happens."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import trio
import trio.testing

from hybridrelay.mux import DATA_CONFIG, MuxStream, Offer, Session, SessionConfig, SessionRole
from hybridrelay.protocol import Reason, SessionCore, frames
from hybridrelay.protocol.session import _HANDLERS
from hybridrelay.streams.nowait import READ_BYTES, Buffer, NowaitStream, nowait

from ..stream_pairs import MAKERS_OVER_SOCKETS, Maker, names

#: More than all buffers of a connection on this machine hold.
BUSY_BYTES = 16 * 1024 * 1024


class Channel(trio.abc.Stream, NowaitStream):
    """A channel in memory that records each write, and takes as much as the test allows."""

    def __init__(self) -> None:
        self._inner, self.far_end = trio.testing.memory_stream_pair()
        self._nowait = nowait(self._inner)
        self.writes: list[bytes] = []
        #: How much it takes. It then holds the rest until `flush` is called and `opened` is set.
        self.room = math.inf
        self.opened = trio.Event()
        self.broken = False
        self._held: list[bytes] = []

    def send_nowait(self, *buffers: Buffer) -> bool:
        assert not self._held, "nothing is sent before a flush"
        if self.broken:
            raise trio.BrokenResourceError("cut")
        data = b"".join(buffers)
        self.writes.append(data)
        self._held.append(data)
        self.room -= len(data)
        if self.room > 0:
            self._pass_on()
        return not self._held

    async def flush(self) -> None:
        if self._held:
            await self.opened.wait()
            self._pass_on()

    def _pass_on(self) -> None:
        self.far_end.receive_stream.put_data(b"".join(self._held))
        self._held.clear()

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        return self._nowait.receive_nowait(max_bytes)

    async def wait_readable(self) -> None:
        await self._nowait.wait_readable()

    async def send_all(self, data: Buffer) -> None:
        raise AssertionError("the channel is used without waiting")

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError("the channel is used without waiting")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise AssertionError("the channel is used without waiting")

    async def aclose(self) -> None:
        await self._inner.aclose()

    def take_writes(self) -> list[list[type[frames.Frame]]]:
        """The kinds of frames in each write since the last call."""
        writes, self.writes = self.writes, []
        return [[type(frame) for frame in frames.FrameDecoder().decode_untrusted(data)] for data in writes]


class Pair:
    """A session over such a channel, one stream of it, and the other end of that."""

    def __init__(self, channel: Channel, client: Session, ours: MuxStream, theirs: MuxStream) -> None:
        self.channel = channel
        self.client = client
        self.ours = ours
        self.theirs = theirs


@pytest.fixture
async def pair(nursery: trio.Nursery) -> Pair:
    channel = Channel()
    client, server = Session.create(SessionRole.INITIATOR), Session.create(SessionRole.ACCEPTOR)
    async with trio.open_nursery() as starting:
        starting.start_soon(nursery.start, client.run, channel)
        starting.start_soon(nursery.start, server.run, channel.far_end)
    ours = client.open_stream_nowait()
    offer: Offer = await server.offers.receive()
    theirs = offer.accept()
    await ours.wait_opened()
    await settle()
    channel.take_writes()
    return Pair(channel, client, ours, theirs)


async def settle() -> None:
    """Wait until everything is written, and until so much time has passed that the next write counts as separate."""
    await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(1)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_message_is_written_by_the_task_that_sends_it(
    autojump_clock: trio.testing.MockClock, pair: Pair
) -> None:
    assert pair.ours.send_nowait(b"x")
    assert pair.channel.take_writes() == [[frames.Data]], "before anybody else ran"
    assert await pair.theirs.receive_some() == b"x"


async def pair_over(channel: Channel, nursery: trio.Nursery, ending: trio.CancelScope) -> tuple[Session, Session]:
    """Return client and server of a session over `channel`. The client runs in the scope `ending`."""
    client, server = Session.create(SessionRole.INITIATOR), Session.create(SessionRole.ACCEPTOR, config=DATA_CONFIG)

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with ending:
            await client.run(channel, task_status=task_status)

    async with trio.open_nursery() as starting:
        starting.start_soon(nursery.start, run)
        starting.start_soon(nursery.start, server.run, channel.far_end)
    return client, server


async def test_what_follows_directly_is_written_together(autojump_clock: trio.testing.MockClock, pair: Pair) -> None:
    for _ in range(10):
        assert pair.ours.send_nowait(b"x")
    await trio.testing.wait_all_tasks_blocked()
    writes = pair.channel.take_writes()
    assert len(writes) == 2
    assert [len(write) for write in writes] == [1, 1], "nine pieces are one frame"
    await settle()
    assert await pair.theirs.receive_some() == b"x" * 10


async def test_answers_to_one_read_leave_together(autojump_clock: trio.testing.MockClock, pair: Pair) -> None:
    await pair.theirs.send_all(bytes(200_000))
    await settle()
    pair.channel.take_writes()
    pair.ours.set_watcher(
        Watcher(lambda: pair.ours.receive_nowait() is not None and pair.ours.send_nowait(b"thanks"))
    )
    await pair.theirs.send_all(bytes(10_000))
    await trio.testing.wait_all_tasks_blocked()
    (write,) = pair.channel.take_writes()
    assert set(write) == {frames.Window, frames.Data, frames.Ack}


async def test_what_the_channel_does_not_accept_is_held_and_everything_else_waits_for_it(
    autojump_clock: trio.testing.MockClock, pair: Pair
) -> None:
    pair.channel.room = 0
    pair.ours.send_nowait(b"first")
    await settle()
    pair.ours.send_nowait(b", second")
    await settle()
    assert len(pair.channel.take_writes()) == 1
    pair.channel.room = math.inf
    pair.channel.opened.set()
    await settle()
    assert pair.channel.take_writes() == [[frames.Data]]
    assert await pair.theirs.receive_some() == b"first, second"


async def test_a_cancelled_sender_tears_no_frame(
    autojump_clock: trio.testing.MockClock, pair: Pair, nursery: trio.Nursery
) -> None:
    pair.channel.room = 0
    async with trio.open_nursery() as sending:
        sending.start_soon(pair.ours.send_all, bytes(1_000_000))
        await trio.testing.wait_all_tasks_blocked()
        sending.cancel_scope.cancel()
    other = pair.client.open_stream_nowait()
    other.send_nowait(b"unharmed")
    pair.channel.room = math.inf
    pair.channel.opened.set()
    await settle()
    assert pair.client.is_open
    received = b""
    while len(received) < 100_000:
        received += await pair.theirs.receive_some()
    assert received == bytes(len(received))


async def test_the_send_at_which_the_channel_breaks_raises_nothing_but_the_next_one_does(
    autojump_clock: trio.testing.MockClock, pair: Pair
) -> None:
    pair.channel.broken = True
    assert pair.ours.send_nowait(b"x")
    await settle()
    outcome = pair.client.outcome
    assert outcome is not None
    assert "cut" in outcome.text
    with pytest.raises(trio.BrokenResourceError):
        pair.ours.send_nowait(b"y")


async def test_a_long_send_during_which_the_channel_breaks_raises(
    autojump_clock: trio.testing.MockClock, pair: Pair
) -> None:
    pair.channel.broken = True
    with pytest.raises(trio.BrokenResourceError):
        await pair.ours.send_all(bytes(1_000_000))
    assert pair.client.outcome is not None


# --- who is informed of what happens


class Watcher:
    """Does something with what arrives, and notes the rest."""

    def __init__(self, on_data: Callable[[], object]) -> None:
        self._on_data = on_data
        self.noted: list[str] = []

    def on_data(self) -> None:
        self._on_data()

    def on_room(self) -> None:
        self.noted.append("room")

    def on_changed(self) -> None:
        self.noted.append("changed")


async def test_a_watcher_takes_what_arrives_as_soon_as_it_arrives(
    autojump_clock: trio.testing.MockClock, pair: Pair
) -> None:
    taken: list[bytes] = []

    def take() -> None:
        data = pair.ours.receive_nowait()
        assert data is not None
        taken.append(bytes(data))

    watcher = Watcher(take)
    pair.ours.set_watcher(watcher)
    await pair.theirs.send_all(b"one")
    await settle()
    await pair.theirs.send_eof()
    await settle()
    assert taken == [b"one", b""]
    assert watcher.noted == []


async def test_a_watcher_is_informed_of_room_and_of_a_reset(
    autojump_clock: trio.testing.MockClock, pair: Pair
) -> None:
    watcher = Watcher(lambda: None)
    pair.ours.set_watcher(watcher)
    pair.channel.room = 0
    while pair.ours.send_nowait(bytes(10_000)):
        pass
    assert not pair.ours.has_room()
    pair.channel.room = math.inf
    pair.channel.opened.set()
    await settle()
    assert watcher.noted == ["room"]
    assert pair.ours.has_room()
    pair.theirs.reset()
    await settle()
    assert watcher.noted[-1] == "changed"
    with pytest.raises(trio.BrokenResourceError):
        pair.ours.receive_nowait()
    with pytest.raises(trio.BrokenResourceError):
        pair.ours.has_room()


async def test_nobody_is_informed_after_the_watcher_has_been_removed(
    autojump_clock: trio.testing.MockClock, pair: Pair
) -> None:
    watcher = Watcher(pytest.fail)
    pair.ours.set_watcher(watcher)
    pair.ours.set_watcher(None)
    await pair.theirs.send_all(b"one")
    pair.theirs.reset()
    await settle()
    assert watcher.noted == []


@pytest.mark.parametrize("in_time", [True, False])
async def test_a_session_that_is_cancelled_within_a_write_tells_the_peer_after_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, in_time: bool
) -> None:
    channel, ending = Channel(), trio.CancelScope()
    client, server = await pair_over(channel, nursery, ending)
    ours = client.open_stream_nowait()
    theirs = (await server.offers.receive()).accept()
    await settle()
    channel.room = 0
    assert ours.send_nowait(b"half written")
    await settle()
    ending.cancel()
    if in_time:
        channel.opened.set()
    await trio.sleep(1)
    if in_time:
        assert server.outcome is not None
        assert server.outcome.reason is Reason.GOING_AWAY
    else:
        assert server.outcome is None, "it waits for another channel"
        assert not server.is_open
    assert client.outcome is not None
    theirs.reset()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("maker", MAKERS_OVER_SOCKETS, ids=names)
async def test_a_session_that_is_cancelled_during_a_long_write_sends_goaway_last(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """On every kind of channel, a TLS record or WebSocket frame that is half written is finished first."""
    channel, far = await maker(nursery)
    peer = nowait(far)
    server = SessionCore(SessionRole.ACCEPTOR, config=SessionConfig(initial_window=BUSY_BYTES))
    server.channel_opened(trio.current_time())
    client = Session.create(SessionRole.INITIATOR)

    async def read_on() -> None:
        while server.ended is None:
            if data := peer.receive_nowait():
                server.receive_data(data, trio.current_time())
                if output := server.data_to_send(trio.current_time()):
                    peer.send_nowait(*output)
            else:
                await peer.wait_readable()

    async with trio.open_nursery() as running:
        running.start_soon(client.run, channel)
        stream = client.open_stream_nowait()
        async with trio.open_nursery() as reading:
            reading.start_soon(read_on)
            while not server.streams:
                await trio.testing.wait_all_tasks_blocked()
            (core,) = server.streams.values()
            server.accept(core, trio.current_time())
            assert peer.send_nowait(*server.data_to_send(trio.current_time()))
            await stream.wait_opened()
            reading.cancel_scope.cancel()
        running.start_soon(stream.send_all, bytes(BUSY_BYTES))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(read_on)
        running.cancel_scope.cancel()
    with trio.fail_after(60):
        while server.ended is None:
            await trio.testing.wait_all_tasks_blocked()
    assert (server.ended.reason, server.ended.by_peer) == (Reason.GOING_AWAY, True)
    await trio.aclose_forcefully(far)
    nursery.cancel_scope.cancel()


class Flooding(Channel):
    """A channel on which many frames arrive at the same time."""

    frames = b""

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        arrived, self.frames = self.frames, b""
        return arrived or super().receive_nowait(max_bytes)


async def test_a_flood_of_small_frames_lets_others_run(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    channel = Flooding()
    client, server = Session.create(SessionRole.INITIATOR), Session.create(SessionRole.ACCEPTOR)
    async with trio.open_nursery() as starting:
        starting.start_soon(nursery.start, client.run, channel)
        starting.start_soon(nursery.start, server.run, channel.far_end)
    seen = turns = 0
    take = client.core._on_ack

    async def count_turns() -> None:
        nonlocal turns
        while seen < 10_000:
            await trio.lowlevel.checkpoint()
            turns += 1

    def on_ack(core: object, frame: frames.Ack, now: float) -> None:
        nonlocal seen
        seen += 1
        take(frame, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_HANDLERS, frames.Ack, on_ack)
        channel.frames = frames.Ack(0).encode() * 10_000
        server.check_alive()  # so that the channel becomes readable
        with trio.fail_after(60):
            await count_turns()
    assert turns >= 10_000 // 512
    assert client.is_open
    nursery.cancel_scope.cancel()


async def test_a_write_fails_between_the_end_of_the_channels_tasks_and_its_closing(nursery: trio.Nursery) -> None:
    """Other tasks may write in the pass of the event loop in which the last of these tasks ends."""
    channel, ending = Channel(), trio.CancelScope()
    client, server = await pair_over(channel, nursery, ending)
    ours = client.open_stream_nowait()
    (await server.offers.receive()).accept()
    await ours.wait_opened()
    await trio.testing.wait_all_tasks_blocked()
    failures: list[BaseException] = []

    class Writer(trio.abc.Instrument):
        has_written = False

        def __init__(self) -> None:
            channel = client._channels.current
            assert channel is not None
            assert channel._nursery is not None
            self.served, self.tasks = channel, channel._nursery

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            if self.tasks._closed and not (self.has_written or self.served._is_unregistered):
                self.has_written = channel.broken = True
                try:
                    ours.send_nowait(b"x")
                except BaseException as exc:  # noqa: BLE001 - an instrument must not raise
                    failures.append(exc)

    writer = Writer()
    trio.lowlevel.add_instrument(writer)
    ending.cancel()
    await trio.testing.wait_all_tasks_blocked()
    trio.lowlevel.remove_instrument(writer)
    assert (writer.has_written, failures) == (True, [])
    nursery.cancel_scope.cancel()


async def test_a_task_that_cannot_be_started_is_an_error(
    autojump_clock: trio.testing.MockClock, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for a channel that is being closed."""

    def start_soon(*_arguments: object) -> None:
        raise RuntimeError("a bug")

    pair.channel.broken = True
    with monkeypatch.context() as patch:
        patch.setattr(trio.Nursery, "start_soon", start_soon)
        with pytest.raises(RuntimeError, match="a bug"):
            pair.ours.send_nowait(b"x")
