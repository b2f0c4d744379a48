"""Two sessions whose applications open, answer, end and lose streams in any order.

What has to hold for every stream: its end is reported exactly once. When both sides have closed everything and the
time for answers is over, no stream counts as unanswered and no state has an observer, so that every stream can be
freed. What is reported as delivered has arrived, and what was closed properly and accepted is delivered.
"""

from __future__ import annotations

import enum
import math
from functools import partial

import attrs
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.mux import DATA_CONFIG, MuxStream, Offer, Party, Session, SessionRole, StreamEnd, receive_hello
from hybridrelay.mux._stream_ends import SETTLING_SECONDS
from hybridrelay.mux._unanswered import UnansweredStreams
from hybridrelay.mux.stream import OPENING_SECONDS
from hybridrelay.protocol import Reason
from hybridrelay.protocol.stream import Stream

#: After this time, every stream that was closed has ended on both sides (seconds).
ALL_OVER_SECONDS = OPENING_SECONDS + 3 * SETTLING_SECONDS


class Do(enum.Enum):
    """A step. All but the first, and those of the session, concern one stream."""

    OPEN = enum.auto()
    SEND = enum.auto()
    SEND_MUCH = enum.auto()
    SEND_EOF = enum.auto()
    CLOSE = enum.auto()
    RESET = enum.auto()
    ACCEPT = enum.auto()
    REFUSE = enum.auto()
    ANSWER = enum.auto()
    READ = enum.auto()
    CLOSE_THERE = enum.auto()
    RESET_THERE = enum.auto()
    RESET_ALL_OPEN = enum.auto()
    LOSE_CHANNEL = enum.auto()
    PASS = enum.auto()


class Finish(enum.Enum):
    """What happens to the session after the last step."""

    NOTHING = enum.auto()
    CLOSE = enum.auto()
    CLOSE_THERE = enum.auto()
    CLOSE_GRACEFULLY = enum.auto()


@attrs.define(eq=False)
class Side:
    """One end of a stream."""

    stream: MuxStream
    state: Stream
    ends: list[StreamEnd] = attrs.field(factory=list)

    @classmethod
    def of(cls, session: Session, stream: MuxStream, *, followed: bool = True) -> Side:
        made = cls(stream, session.core.streams[stream.stream_id])
        if followed:
            stream.set_end_callback(made.ends.append)
        return made


@attrs.define(eq=False)
class Pair:
    """A stream that the client has opened, and what happened to it."""

    near: Side
    followed: bool
    offer: Offer | None = None
    far: Side | None = None
    written: int = 0
    arrived: int = 0
    #: Whether the far side has read the end of file.
    complete: bool = False
    #: Whether the far side was closed, so that it does not read everything.
    stopped: bool = False
    was_reset: bool = False


class World:
    """Both sessions, and all streams."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.client = Session.create(SessionRole.INITIATOR, config=DATA_CONFIG)
        self.server = Session.create(SessionRole.ACCEPTOR, config=DATA_CONFIG)
        #: With this limit, a stream may be opened only if none is unanswered. `open_stream_nowait` ignores it.
        self.client.unanswered = UnansweredStreams(1)
        self.pairs: list[Pair] = []

    async def start(self) -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.server.run, theirs)
        await self.nursery.start(partial(self.client.run, ours, reconnect=self.reconnect))
        self.nursery.start_soon(self.receive_offers)

    async def reconnect(self) -> trio.abc.Stream:
        await trio.sleep(0.1)
        ours, theirs = trio.testing.memory_stream_pair()

        async def accept() -> None:
            _, initial = await receive_hello(theirs)
            await self.server.replace_channel(theirs, initial)

        self.nursery.start_soon(accept)
        return ours

    async def receive_offers(self) -> None:
        async for offer in self.server.offers:
            next(pair for pair in self.pairs if pair.near.stream.stream_id == offer.stream_id).offer = offer

    async def step(self, do: Do, pick: int) -> None:
        if do is Do.OPEN:
            self.open(followed=pick % 3 > 0)
        elif do is Do.LOSE_CHANNEL:
            self.client.drop_channel()
        elif do is Do.RESET_ALL_OPEN:
            for pair in self.pairs:
                pair.was_reset = True
            self.client.reset_open_streams(Reason.CANCELLED)
        elif do is Do.PASS:
            await trio.sleep([0, 0.001, 1, SETTLING_SECONDS - 0.001, 7, OPENING_SECONDS][pick % 6])
        elif self.pairs:
            if do in (Do.ACCEPT, Do.REFUSE):
                await trio.testing.wait_all_tasks_blocked()  # the offer has arrived
            self.stream_step(do, self.pairs[pick % len(self.pairs)])

    def open(self, *, followed: bool) -> None:
        stream = self.client.open_stream_nowait()
        self.pairs.append(Pair(Side.of(self.client, stream, followed=followed), followed))

    def stream_step(self, do: Do, pair: Pair) -> None:
        near, far = pair.near.stream, None if pair.far is None else pair.far.stream
        is_offered = pair.offer is not None and pair.far is None
        try:
            if do in (Do.SEND, Do.SEND_MUCH):
                data = bytes(5 if do is Do.SEND else 50_000)
                near.send_nowait(data)
                pair.written += len(data)
            elif do is Do.SEND_EOF:
                near.send_eof_nowait()
            elif do is Do.CLOSE:
                near.close_nowait()
            elif do is Do.RESET:
                near.reset()
                pair.was_reset = True
            elif do is Do.ACCEPT and is_offered and pair.offer is not None:
                self.accept(pair, pair.offer)
            elif do is Do.REFUSE and is_offered and pair.offer is not None:
                pair.offer.refuse(Reason.TARGET_REFUSED)
            elif far is not None:
                if do is Do.ANSWER:
                    far.send_nowait(b"answer")
                elif do is Do.READ:
                    self.read(pair, far)
                elif do is Do.CLOSE_THERE:
                    far.close_nowait()
                    pair.stopped = True
                elif do is Do.RESET_THERE:
                    far.reset()
                    pair.was_reset = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def accept(self, pair: Pair, offer: Offer) -> None:
        if not offer.is_withdrawn and self.server.outcome is None:
            state = self.server.core.streams[offer.stream_id]
            if not state.states.is_aborted:
                stream = offer.accept()
                pair.far = Side(stream, state)
                stream.set_end_callback(pair.far.ends.append)

    def read(self, pair: Pair, far: MuxStream) -> None:
        while (data := far.receive_nowait()) is not None:
            pair.arrived += len(data)
            if not data:
                pair.complete = True
                return

    async def finish(self, how: Finish) -> None:
        if how is Finish.CLOSE:
            self.client.close()
        elif how is Finish.CLOSE_THERE:
            self.server.close()
        elif how is Finish.CLOSE_GRACEFULLY:
            self.nursery.start_soon(partial(self.client.aclose, grace=math.inf))
        for pair in self.pairs:
            self.stream_step(Do.READ, pair)
            pair.near.stream.close_nowait()
        for _ in range(math.ceil(ALL_OVER_SECONDS)):
            await trio.sleep(1)
            for pair in self.pairs:
                self.stream_step(Do.READ, pair)
        for pair in self.pairs:
            if pair.far is not None:
                pair.far.stream.close_nowait()
        await trio.sleep(ALL_OVER_SECONDS)

    def check_progress(self) -> None:
        for pair in self.pairs:
            assert len(pair.near.ends) <= 1
            assert pair.far is None or len(pair.far.ends) <= 1

    def check(self, how: Finish) -> None:
        assert self.client.unanswered.may_open_now, "a stream still counts as unanswered"
        for pair in self.pairs:
            sides = [pair.near] if pair.far is None else [pair.near, pair.far]
            for side in sides:
                assert len(side.ends) == (1 if pair.followed or side is pair.far else 0)
                assert not isinstance(side.state.observer, MuxStream), "a stream that has ended is kept"
            if pair.near.ends:
                self.check_end(pair, pair.near.ends[0], how)
        assert self.client.stream_count == self.server.stream_count == 0
        if how is Finish.CLOSE_GRACEFULLY:
            assert self.client.outcome is not None

    def check_end(self, pair: Pair, end: StreamEnd, how: Finish) -> None:
        assert not end.sent_all or end.was_accepted
        assert not end.was_accepted or pair.far is not None
        if end.sent_all:
            assert end.sent == pair.written
        assert end.ended_by is not Party.LOCAL or not end.was_closed or end.was_accepted
        disturbed = pair.was_reset or pair.stopped or how in (Finish.CLOSE, Finish.CLOSE_THERE)
        if end.was_closed and end.was_accepted and not disturbed:
            assert pair.complete
            assert pair.arrived == pair.written


STEPS = st.lists(st.tuples(st.sampled_from(Do), st.integers(0, 11)), max_size=40)
#: Streams that are closed early, which random steps alone seldom make: whether somebody follows the stream, what was
#: sent, and what happens afterwards.
EARLY = st.tuples(
    st.booleans(),
    st.sampled_from([Do.SEND, Do.SEND_MUCH, Do.SEND_EOF]),
    st.lists(st.sampled_from([Do.PASS, Do.LOSE_CHANNEL, Do.ACCEPT, Do.REFUSE, Do.RESET_THERE, Do.RESET]), max_size=4),
)


@given(early=st.lists(EARLY, max_size=3), steps=STEPS, how=st.sampled_from(Finish))
def test_every_stream_ends_once_and_is_let_go(
    early: list[tuple[bool, Do, list[Do]]], steps: list[tuple[Do, int]], how: Finish
) -> None:
    async def run() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery)
            await world.start()
            for followed, sent, then in early:
                world.open(followed=followed)
                for do in (sent, Do.CLOSE, *then):
                    await world.step(do, len(world.pairs) - 1)
            for do, pick in steps:
                await world.step(do, pick)
                world.check_progress()
            await world.finish(how)
            world.check(how)
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
