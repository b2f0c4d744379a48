"""Two session cores and the bytes between them, in virtual time: no sockets, no tasks, no clock.

Nothing happens by itself: a test decides what is written, how much of it arrives, and what is lost.
"""

from __future__ import annotations

from ..protocol.config import SessionConfig
from ..protocol.events import SessionEvent
from ..protocol.frames import Frame, FrameDecoder, Hello
from ..protocol.session import SessionCore, SessionRole, State
from ..protocol.stream import Stream
from ..protocol.windows import Budget


class CoreSide:
    """One core, its events, and the bytes that it wrote and that have not arrived yet."""

    def __init__(self, core: SessionCore) -> None:
        self.core = core
        self.events: list[SessionEvent] = []
        #: Bytes that were written and not yet delivered to the peer.
        self.wire = bytearray()

    def take_events(self) -> list[SessionEvent]:
        """Remove and return the events since the last call."""
        taken, self.events = self.events, []
        return taken

    def take_wire(self) -> list[Frame]:
        """Remove and return the frames on the wire. The peer never receives them."""
        frames = list(FrameDecoder(datagrams=True).decode_untrusted(bytes(self.wire)))
        self.wire.clear()
        return frames


class CorePair:
    """An initiator and an acceptor. `now` is the time, which the test changes."""

    def __init__(
        self,
        config: SessionConfig | None = None,
        *,
        acceptor_config: SessionConfig | None = None,
        budgets: tuple[Budget | None, Budget | None] = (None, None),
    ) -> None:
        initiator = SessionCore(
            SessionRole.INITIATOR, config=config, budget=budgets[0], session_id=b"session id 16 by", secret=b"s" * 32
        )
        self.initiator = CoreSide(initiator)
        self.acceptor = CoreSide(
            SessionCore(SessionRole.ACCEPTOR, config=acceptor_config or config, budget=budgets[1], secret=b"a" * 32)
        )
        self.now = 0.0
        #: Bytes that arrived on a new channel before HELLO has told the acceptor which session it belongs to.
        self._greeting: bytes | None = None

    @classmethod
    def established(
        cls,
        config: SessionConfig | None = None,
        *,
        acceptor_config: SessionConfig | None = None,
        budgets: tuple[Budget | None, Budget | None] = (None, None),
    ) -> CorePair:
        """Return a pair that has exchanged HELLO, and has no further output or events."""
        pair = cls(config, acceptor_config=acceptor_config, budgets=budgets)
        pair.connect()
        pair.pump()
        pair.take_events()
        return pair

    @property
    def sides(self) -> tuple[CoreSide, CoreSide]:
        return self.initiator, self.acceptor

    def other(self, side: CoreSide) -> CoreSide:
        return self.acceptor if side is self.initiator else self.initiator

    # --- channels

    def connect(self) -> None:
        """Open a new channel. Bytes in transit on the old one are lost. The acceptor learns of it by HELLO."""
        self.lose()
        if self.initiator.core.state is not State.DETACHED:
            self.lose_channel(self.initiator)
        self.initiator.core.channel_opened(self.now)
        self._greeting = b""

    def lose(self) -> None:
        """Lose the bytes in transit, and the acceptor's new channel if its session does not have it yet."""
        for side in self.sides:
            side.wire.clear()
        self._greeting = None

    def lose_channel(self, side: CoreSide) -> None:
        """Have a side detect that its channel is lost."""
        side.events += side.core.channel_lost(self.now)

    def cut(self) -> None:
        """Break the channel, and have both sides detect it."""
        self.lose()
        for side in self.sides:
            self.lose_channel(side)

    # --- bytes

    def write(self, side: CoreSide, max_bytes: int = 256 * 1024) -> int:
        """Let a side write once. Returns how many bytes it wrote.

        Bytes that the acceptor writes to its old channel after the initiator has opened a new one are lost.
        """
        announced = side.core.has_output
        data = b"".join(side.core.data_to_send(self.now, max_bytes))
        assert announced or not data, "a driver that checks `has_output` would not have written this"
        side.events += side.core.pending_events()
        if side is self.initiator or self._greeting is None:
            side.wire += data
        return len(data)

    def write_frame(self, side: CoreSide, frame: Frame) -> None:
        """Write a frame that the side's core would not write, after what the core has to write now.

        Does nothing while the side may not write, because HELLO has not been exchanged.
        """
        self.write(side)
        if side.core.is_established and (side is self.initiator or self._greeting is None):
            side.wire += frame.encode()

    def deliver(self, side: CoreSide, amount: int | None = None) -> int:
        """Deliver bytes that the side has written, at most `amount`. Returns how many were delivered."""
        amount = len(side.wire) if amount is None else min(amount, len(side.wire))
        data = bytes(side.wire[:amount])
        del side.wire[:amount]
        if not data:
            return 0
        if side is self.initiator and self._greeting is not None:
            self._greet(data)
        else:
            receiver = self.other(side)
            receiver.events += receiver.core.receive_data(data, self.now)
        return amount

    def _greet(self, data: bytes) -> None:
        """Do what an acceptor's driver does: read HELLO, then decide."""
        assert self._greeting is not None
        self._greeting += data
        first = next(FrameDecoder().decode_untrusted(self._greeting), None)
        if first is None:
            return
        core = self.acceptor.core
        if isinstance(first, Hello) and core.peer_hello is not None:
            refusal = core.attach_refusal(first)
            assert refusal is None, refusal
            self.lose_channel(self.acceptor)
        data, self._greeting = self._greeting, None
        if core.state is State.DETACHED:
            core.channel_opened(self.now)
        self.acceptor.events += core.receive_data(data, self.now)

    def pump(self) -> None:
        """Write and deliver until neither side has output."""
        while sum([self.write(side) + self.deliver(side) for side in self.sides]):
            pass

    def advance(self, seconds: float) -> None:
        """Advance the time from deadline to deadline, and pump at each."""
        end = self.now + seconds
        self.pump()
        while True:
            deadlines = [deadline for side in self.sides if (deadline := side.core.next_deadline()) is not None]
            self.now = max(self.now, min([*deadlines, end]))
            for side in self.sides:
                side.events += side.core.handle_timeout(self.now)
            self.pump()
            if self.now >= end:
                return

    def take_events(self) -> tuple[list[SessionEvent], list[SessionEvent]]:
        return self.initiator.take_events(), self.acceptor.take_events()

    # --- streams

    def open(self, opener: CoreSide | None = None) -> tuple[Stream, Stream]:
        """Open a stream that is accepted. Returns the opener's end (the initiator's by default) and the other one."""
        opener = opener or self.initiator
        acceptor = self.other(opener)
        stream = opener.core.open_stream()
        self.pump()
        offered = acceptor.core.streams[stream.id]
        acceptor.core.accept(offered, self.now)
        self.pump()
        self.take_events()
        return stream, offered
