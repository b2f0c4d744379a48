"""Joining two byte streams without interpreting the bytes.

The rules:

1. An end of file is passed on to the other stream after the last byte; the other direction continues.
2. An error aborts *both* streams, in such a way that neither peer can mistake it for an end of file.
3. Both streams are closed when `pump` ends, for whatever reason.
4. Nothing is read before everything that was read earlier has been passed on, which provides back-pressure.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeAlias

import attrs
import trio

from ...streams.nowait import NowaitStream, nowait
from ...streams.sockets import abort_stream
from ..limits import CLOSE_DEADLINE_SECONDS
from .pace import PairPace
from .splice import PipePool, SinkBroke, SourceBroke, Spliced, StreamBroke, can_splice, splice

__all__ = ["Moved", "MovedByWorker", "PumpOutcome", "abort", "pump"]

_Stream: TypeAlias = trio.abc.HalfCloseableStream
_STREAM_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError)


class MovedByWorker(Protocol):
    """The bytes of a pair that a worker process moves."""

    @property
    def a_to_b(self) -> int: ...
    @property
    def b_to_a(self) -> int: ...


@attrs.define(eq=False)
class Moved:
    """How many bytes were passed on so far, in each direction.

    The pump updates it after every step, of up to 512 KiB. It can be read at any time, also after the pump was
    cancelled. A step that was interrupted is not counted, although some of its bytes may have been passed on.
    """

    a_to_b: int = 0
    b_to_a: int = 0
    #: What a worker has moved in addition, while it has the pair.
    worker: MovedByWorker | None = None

    @property
    def total_a_to_b(self) -> int:
        """All bytes from the first to the second stream."""
        return self.a_to_b + (0 if self.worker is None else self.worker.a_to_b)

    @property
    def total_b_to_a(self) -> int:
        """All bytes from the second to the first stream."""
        return self.b_to_a + (0 if self.worker is None else self.worker.b_to_a)

    def fold_in(self) -> None:
        """Add what the worker has moved to the other numbers, because it no longer has the pair."""
        self.a_to_b, self.b_to_a, self.worker = self.total_a_to_b, self.total_b_to_a, None


class PumpOutcome(enum.Enum):
    """How a pump ended."""

    #: Both directions reached an end of file, which was passed on.
    FINISHED = "finished"
    #: The first stream failed; the second was aborted.
    A_BROKE = "a broke"
    #: The second stream failed; the first was aborted.
    B_BROKE = "b broke"
    #: The worker process that moved the bytes has ended, or could not serve the pair; both connections were reset.
    WORKER_ENDED = "worker ended"
    #: This main process ends, and the worker keeps the pair for the next main process.
    KEPT = "kept"


async def pump(
    a: _Stream,
    b: _Stream,
    *,
    moved: Moved | None = None,
    pipes: PipePool | None = None,
    pace: PairPace | None = None,
    ended: tuple[bool, bool] = (False, False),
) -> PumpOutcome:
    """Join two streams until both directions have ended or one stream breaks.

    Between two sockets on Linux, the bytes stay in the kernel. The pump owns the streams: no other code may use them,
    and both are closed when it ends, for whatever reason. If cancelled, both are aborted, so that the peers see a
    broken connection, and not an end of file.

    Args:
        a: the first stream.
        b: the second stream.
        moved: counts the bytes.
        pipes: the pool from which pipes are borrowed. None makes one for this call, which costs nothing before the
            first byte.
        pace: the rate limit and the turns; None means no limit, and turns of its own.
        ended: whether the end of file of `a`, and that of `b`, was already passed on.

    Raises:
        ExceptionGroup: a stream raised an exception that the contract of streams does not allow. Both were aborted.
    """
    moved = Moved() if moved is None else moved
    pump_ = _Pump(moved, PipePool() if pipes is None else pipes, PairPace() if pace is None else pace)
    outcome = None
    try:
        outcome = await pump_.join(a, b, ended)
    finally:
        if pipes is None:
            pump_.pipes.close()
        if outcome is PumpOutcome.FINISHED:
            await _close(a, b)
        else:
            await abort(a, b)
    return outcome


class _Pump:
    """The two directions of one pump, and what they share."""

    def __init__(self, moved: Moved, pipes: PipePool, pace: PairPace) -> None:
        self.pipes = pipes
        self._pace = pace
        self._moved = moved
        self._broken: PumpOutcome | None = None

    async def join(self, a: _Stream, b: _Stream, ended: tuple[bool, bool]) -> PumpOutcome:
        moved = self._moved

        def count_a_to_b(size: int) -> None:
            moved.a_to_b += size

        def count_b_to_a(size: int) -> None:
            moved.b_to_a += size

        async with trio.open_nursery() as nursery:
            both = nursery.cancel_scope
            broke = PumpOutcome.A_BROKE, PumpOutcome.B_BROKE
            if not ended[0]:
                nursery.start_soon(self._run, a, b, count_a_to_b, broke, both, name="pump a to b")
            if not ended[1]:
                nursery.start_soon(self._run, b, a, count_b_to_a, broke[::-1], both, name="pump b to a")
        return self._broken or PumpOutcome.FINISHED

    async def _run(
        self,
        source: _Stream,
        sink: _Stream,
        count: Callable[[int], None],
        broke: tuple[PumpOutcome, PumpOutcome],
        both: trio.CancelScope,
    ) -> None:
        """Run one direction to its end. An error ends both; the first one is the outcome.

        Args:
            source: the stream to read from.
            sink: the stream to write to.
            count: called with the number of bytes moved, after each block, or with splicing each time that the pipe
                was emptied.
            broke: the outcomes if the source fails, and if the sink fails.
            both: cancelled at an error.
        """
        try:
            await self._move(source, sink, count)
            try:
                await sink.send_eof()
            except _STREAM_ERRORS as exc:
                raise SinkBroke from exc
        except StreamBroke as exc:
            self._broken = self._broken or broke[isinstance(exc, SinkBroke)]
            both.cancel()

    async def _move(self, source: _Stream, sink: _Stream, count: Callable[[int], None]) -> None:
        """Move everything up to the end of `source`. Raises StreamBroke."""
        if can_splice(source, sink):
            assert isinstance(source, trio.SocketStream)
            assert isinstance(sink, trio.SocketStream)
            while (stopped := await splice(source, sink, self.pipes, self._pace, count)) is Spliced.NO_PIPE:
                if not await _copy(nowait(source), nowait(sink), self._pace, count, once=True):
                    return
            if stopped is Spliced.END:
                return
        await _copy(nowait(source), nowait(sink), self._pace, count)


async def _copy(
    source: NowaitStream, sink: NowaitStream, pace: PairPace, count: Callable[[int], None], *, once: bool = False
) -> bool:
    """Move bytes through buffers. Returns False at the end of `source`. With `once`, returns True after one block.

    Raises StreamBroke.
    """
    turns = pace.turns
    if turns.begin():
        await turns.next()
    while True:
        try:
            block = source.receive_nowait() if pace.rate is None else source.receive_nowait(pace.block)
            if block is None:
                turns.use(0, 0)  # there may have been frames without data
                await source.wait_readable()
                if turns.begin():
                    await turns.next()
                continue
        except _STREAM_ERRORS as exc:
            raise SourceBroke from exc
        if not block:
            return False
        size = len(block)
        try:
            is_passed_on = sink.send_nowait(block)
            is_over = turns.use(0, size)
            if not is_passed_on:
                await sink.flush()
                is_over = turns.begin()
        except _STREAM_ERRORS as exc:
            raise SinkBroke from exc
        count(size)
        if pace.rate is not None:
            await pace.wait(size)
            is_over = turns.begin()
        if once:
            return True
        if is_over:
            await turns.next()


async def abort(*streams: trio.abc.AsyncResource) -> None:
    """Close streams in such a way that no peer sees an end of file: sockets are reset, others are closed forcefully.

    Never blocks, and closes all of them even if cancelled. Closing twice is harmless.
    """
    # Shielded, because a cancellation must not end the loop before every stream is closed.
    with trio.CancelScope(shield=True):
        for stream in streams:
            with suppress(*_STREAM_ERRORS):
                await abort_stream(stream)


async def _close(a: _Stream, b: _Stream) -> None:
    """Close both gracefully, each within a deadline. If cancelled, close them forcefully."""
    try:
        await _close_one(a)
    finally:
        await _close_one(b)


async def _close_one(stream: _Stream) -> None:
    # Both ends of file have been passed on, so nothing is lost if closing fails.
    with trio.move_on_after(CLOSE_DEADLINE_SECONDS), suppress(*_STREAM_ERRORS):
        await stream.aclose()
