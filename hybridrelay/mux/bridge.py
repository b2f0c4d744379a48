"""Joining a stream of a session with a TCP connection on this machine: the application's, or the target's.

What arrives for the TCP connection is handed to it by the task that reads the channel, as far as the connection takes
it without waiting; what the TCP connection sends goes through the session to the channel in the same way. So a small
message wakes one task in each process, and not three.

A stream need not be accepted yet: what the application says first follows OPEN at once, which saves a round trip. It
is kept until the peer has answered, so that another stream may carry it where the peer never looked at this one.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable

import attrs
import trio

from ..errors import HybridRelayError, StreamRefused
from ..protocol.reasons import Reason
from ..streams.nowait import READ_BYTES, Turn, nowait
from ..streams.sockets import abort_stream, reset_on_close
from .stream import MuxStream

#: Where the peer reads no more, how long the TCP connection may take for what the peer had sent before (seconds).
_LAST_BYTES_SECONDS = 30.0
#: For the peer's answer to OPEN: the target's own deadline of 10 s, and a session that has to resume.
_OPENING_SECONDS = 30.0


class Party(enum.Enum):
    """Who ended a bridge before both directions had come to their end."""

    NOBODY = enum.auto()
    #: The TCP connection on this machine.
    LOCAL = enum.auto()
    #: The peer reset the stream, or reads no more.
    PEER = enum.auto()
    #: The stream was lost with its session.
    SESSION = enum.auto()
    #: `bridge` was cancelled.
    CALLER = enum.auto()


@attrs.frozen
class Bridged:
    """How a bridge ended, or how far it has come."""

    #: Bytes from the TCP connection into the stream, and the other way, as far as the kernel took them.
    sent: int
    received: int
    #: `Reason.NO_ERROR`: both directions came to their end.
    reason: Reason
    #: The peer refused the stream, or did not answer: what it said about that.
    refusal: str | None = None
    #: The end of file came after `sent` and was passed on; likewise for `received`.
    sent_all: bool = False
    received_all: bool = False
    #: The peer reads no more; what was sent after that was dropped.
    peer_stopped: bool = False
    ended_by: Party = Party.NOBODY


class BridgeProgress:
    """Lets the caller of `bridge` look at it while it runs, and after it was cancelled."""

    def __init__(self) -> None:
        self._bridge: _Bridge | None = None

    def so_far(self) -> Bridged:
        """How far it has come, or how it ended."""
        return Bridged(0, 0, Reason.NO_ERROR) if self._bridge is None else self._bridge.result()


class _Broke(Exception):
    """One side failed; `reason` says why."""

    def __init__(self, reason: Reason, party: Party) -> None:
        super().__init__(reason.describe)
        self.reason = reason
        self.party = party


_STREAM_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError)


class _Bridge:
    def __init__(self, stream: MuxStream, local: trio.SocketStream, early: list[bytes] | None = None) -> None:
        self.stream = stream
        self.local = local
        self.port = nowait(local)
        #: What was sent before the peer had accepted the stream; the end of file is b"".
        self.early: list[bytes] = early or []
        #: Why the stream was not accepted.
        self.refusal: StreamRefused | None = None
        self.sent = 0
        self.received = 0
        self.reason = Reason.NO_ERROR
        #: Who caused `reason`.
        self.ended_by = Party.NOBODY
        #: The end of file of the TCP connection was passed on.
        self.sent_all = False
        #: Reading from the TCP connection has failed; what is read from it now looks like its end.
        self.local_broke = False
        #: The peer reads no more.
        self.stopped = False
        #: All that the peer sent has been handed to the TCP connection, its end of file included.
        self.delivered = False
        #: `inward` waits for the stream, so `take` may do its work.
        self._inward_waits = False
        #: The TCP connection did not take all that was handed to it.
        self._clogged = False
        #: Both directions, while they run.
        self._both = trio.CancelScope()

    def result(self) -> Bridged:
        """How far it has come."""
        refusal = None if self.refusal is None else str(self.refusal)
        return Bridged(
            self.sent,
            max(0, self.received - self.port.unsent_bytes),
            self.reason,
            refusal,
            sent_all=self.sent_all,
            received_all=self.delivered,
            peer_stopped=self.stopped,
            ended_by=self.ended_by,
        )

    @property
    def finished(self) -> bool:
        """Everything that could be delivered was."""
        return self.delivered and (self.stopped or self.reason is Reason.NO_ERROR)

    async def run(self) -> None:
        """Both directions, to the end of both or of one."""
        async with trio.open_nursery() as nursery:
            self._both = nursery.cancel_scope
            nursery.start_soon(self.inward)
            await self.outward()

    # --- from the TCP connection into the stream

    async def outward(self) -> None:
        """All of it, and the end of file."""
        turn, most = Turn(), self._most_to_read()
        try:
            ended = await self._send_early()
            while not ended:
                try:
                    data = self.port.receive_nowait(most)
                    if data is None:
                        await self.port.wait_readable()
                        turn, most = Turn(), self._most_to_read()
                        continue
                except _STREAM_ERRORS as exc:
                    self.local_broke = True
                    raise _Broke(Reason.TARGET_RESET, Party.LOCAL) from exc
                size = len(data)
                if self.stopped:
                    pass  # read and dropped
                elif size:
                    if not self.stream.was_accepted:
                        data = bytes(data)
                        self.early.append(data)
                    try:
                        room = self.stream.send_nowait(data)
                        self.sent += size
                        if not room:
                            await self.stream.flush()
                            turn, most = Turn(), self._most_to_read()
                    except _STREAM_ERRORS as exc:
                        self._not_heard(self._stream_broke(exc))
                else:
                    if not self.stream.was_accepted:
                        self.early.append(b"")
                    try:
                        await self.stream.send_eof()
                        self.sent_all = True
                    except _STREAM_ERRORS as exc:
                        self._not_heard(self._stream_broke(exc))
                if not size:
                    return
                if turn.is_over(size):
                    await trio.lowlevel.checkpoint()
                    turn, most = Turn(), self._most_to_read()
        except _Broke as exc:
            self._end(exc)

    def _most_to_read(self) -> int:
        """How much to read at a time until others have run: nobody else can take memory before that."""
        return min(READ_BYTES, self.stream.send_share)

    async def _send_early(self) -> bool:
        """Send again what an earlier stream was refused with; True where that includes the end of file."""
        early = self.early
        for data in early:
            try:
                if not data:
                    await self.stream.send_eof()
                    self.sent_all = True
                    continue
                room = self.stream.send_nowait(data)
                self.sent += len(data)
                if not room:
                    await self.stream.flush()
            except _STREAM_ERRORS as exc:
                self._not_heard(self._stream_broke(exc))
        return early[-1:] == [b""]

    def _not_heard(self, broke: _Broke) -> None:
        """The stream takes nothing more: because the peer reads no more, or because it was reset."""
        if self.stream.reset_reason is not Reason.NO_ERROR:
            raise broke
        # The application closed right behind its last bytes, and the TCP connection answers to the first of them.
        # The rest has to arrive all the same. Until it has, answers are read and dropped, or both would wait.
        self.stopped = True
        self.reason, self.ended_by = broke.reason, broke.party
        self._both.deadline = trio.current_time() + _LAST_BYTES_SECONDS
        if self.delivered:
            self._both.cancel()

    # --- from the stream into the TCP connection

    async def inward(self) -> None:
        """All of it, and the end of file: what `take` does not do."""
        try:
            await self._wait_accepted()
            self.stream.set_taker(self.take)
            while not self._hand_over():
                try:
                    if self._clogged:
                        await self.port.flush()
                        self._clogged = False
                        continue
                except _STREAM_ERRORS as exc:
                    raise _Broke(Reason.TARGET_RESET, Party.LOCAL) from exc
                self._inward_waits = True
                try:
                    await self.stream.wait_readable()
                except _STREAM_ERRORS as exc:
                    raise self._stream_broke(exc) from exc
                finally:
                    self._inward_waits = False
            try:
                await self.local.send_eof()
            except _STREAM_ERRORS as exc:
                raise _Broke(Reason.TARGET_RESET, Party.LOCAL) from exc
            self.delivered = True
            if self.stopped:
                self._both.cancel()
        except _Broke as exc:
            self._end(exc)

    async def _wait_accepted(self) -> None:
        if not self.stream.was_accepted:
            refusal = StreamRefused("no answer to OPEN in time", reason=Reason.TARGET_TIMEOUT)
            try:
                with trio.move_on_after(_OPENING_SECONDS):
                    await self.stream.wait_opened()
            except StreamRefused as exc:
                refusal = exc
            if not self.stream.was_accepted:
                self.refusal = refusal
                raise _Broke(refusal.reason, self._broken_by()) from refusal
        self.early = []  # `_send_early` may still be at the other one

    @property
    def may_be_sent_again(self) -> bool:
        """The stream was refused, and nothing of what was sent on it has got any further."""
        # GOING_AWAY means that the stream was not processed. If the session was lost, the answer may be lost as well.
        refusal = self.refusal
        if refusal is None or self.local_broke:
            return False
        return refusal.reason is Reason.GOING_AWAY or not any(self.early)

    def take(self) -> bool:
        """Hand over what has arrived, in place of `inward`; False where `inward` has to see to it."""
        if not self._inward_waits:
            return True  # it is awake, and looks again before it waits
        try:
            at_end = self._hand_over()
        except _Broke as exc:
            # At once: a TCP connection tells only once that it broke, and then `outward` would find an end of file.
            self._end(exc)
            return False
        return not at_end and not self._clogged

    def _hand_over(self) -> bool:
        """Move what has arrived, as far as the TCP connection takes it; True at the end of the stream."""
        while not self._clogged:
            try:
                pieces = self.stream.receive_pieces_nowait()
            except _STREAM_ERRORS as exc:
                raise self._stream_broke(exc) from exc
            if pieces is None:
                return False
            if not pieces:
                return True
            size = sum(map(len, pieces))
            try:
                self._clogged = not self.port.send_nowait(*pieces)
            except _STREAM_ERRORS as exc:
                raise _Broke(Reason.TARGET_RESET, Party.LOCAL) from exc
            self.received += size
        return False

    def _end(self, broke: _Broke) -> None:
        if self.reason is Reason.NO_ERROR:
            self.reason, self.ended_by = broke.reason, broke.party
        self._both.cancel()

    def cut_off(self) -> None:
        """`bridge` was cancelled: note why it ends, unless there was a reason already."""
        if self.reason is not Reason.NO_ERROR:
            return
        if self.stream.reset_reason is not Reason.NO_ERROR:  # which neither direction has noticed yet
            self.reason, self.ended_by = self.stream.reset_reason, self._broken_by()
        else:
            self.reason, self.ended_by = Reason.CANCELLED, Party.CALLER

    def _stream_broke(self, exc: BaseException) -> _Broke:
        cause = exc.__cause__
        reason = cause.reason if isinstance(cause, HybridRelayError) else Reason.CANCELLED
        return _Broke(reason, self._broken_by())

    def _broken_by(self) -> Party:
        return Party.SESSION if self.stream.was_lost else Party.PEER


async def bridge(
    stream: MuxStream,
    local: trio.SocketStream,
    *,
    reopen: Callable[[StreamRefused], Awaitable[MuxStream]] | None = None,
    progress: BridgeProgress | None = None,
) -> Bridged:
    """Join the two until both directions have ended, or one side breaks.

    End of file travels on its own in each direction. What breaks on one side breaks on the other: the stream is reset
    with a reason, the TCP connection is reset, and neither ever ends as if it were complete. Where the peer only
    reads no more, what it had sent is still delivered. Both are closed on every way out; cancelled, both are reset.

    Args:
        stream: may still wait for the peer's answer; what is sent meanwhile goes with OPEN.
        reopen: called at most once, where the peer refuses the stream and has not looked at what was sent. Gives
            another stream for the same bytes, or raises `StreamRefused`.
        progress: tells how far it has come at any time, also after a cancellation.
    """
    reset_on_close(local, True)
    joined = _Bridge(stream, local)
    if progress is not None:
        progress._bridge = joined
    finished = False
    try:
        await joined.run()
        if reopen is not None and joined.refusal is not None and joined.may_be_sent_again:
            try:
                joined = _Bridge(await reopen(joined.refusal), local, joined.early)
                if progress is not None:
                    progress._bridge = joined
            except StreamRefused as exc:
                joined.refusal = exc
            else:
                await joined.run()
        finished = joined.finished
    finally:
        stream = joined.stream
        if finished:
            try:
                await stream.aclose()
            finally:
                reset_on_close(local, False)
                await trio.aclose_forcefully(local)  # all FINs have left; nothing is discarded
        else:
            joined.cut_off()
            stream.reset(joined.reason)
            await abort_stream(local)
    return joined.result()
