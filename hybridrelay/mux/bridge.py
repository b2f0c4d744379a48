"""Joining a stream of a session with a TCP connection on this machine: the application's, or the target's.

The task that reads the channel writes what arrives to the TCP connection, as far as the connection accepts it without
blocking. In the same way, the task that reads the TCP connection writes to the channel. So a small message wakes one
task in each process instead of three.

A stream need not be accepted yet: the first bytes of the application follow OPEN immediately, which saves a round
    trip.
They are kept until the peer has answered, so that another stream can carry them if the peer did not process this one.

This file has the life cycle of a bridge. `bridging.py` decides how it ends, and `_directions.py` moves the bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from ..errors import StreamRefused
from ..protocol.reasons import Reason
from ..streams.nowait import nowait
from ..streams.sockets import abort_stream, reset_on_close
from ._directions import Inward, Outward, stream_broke
from .bridging import Bridged, BridgeMachine, Command, Input
from .stream import MuxStream

__all__ = ["BridgeProgress", "bridge"]

#: When the peer has stopped reading: how long the TCP connection may take what the peer had sent before (seconds).
_LAST_BYTES_SECONDS = 30.0
#: For the peer's answer to OPEN: the target's own deadline of 10 s, and a session that has to resume.
_OPENING_SECONDS = 30.0


class BridgeProgress:
    """Lets the caller of `bridge` look at it while it runs, and after it was cancelled."""

    def __init__(self) -> None:
        self._bridge: _Bridge | None = None

    def so_far(self) -> Bridged:
        """How far it has come, or how it ended."""
        return Bridged(0, 0, Reason.NO_ERROR) if self._bridge is None else self._bridge.outcome()

    def follow(self, bridge: _Bridge) -> None:
        """Report about this one from now on."""
        self._bridge = bridge


class _Bridge:
    """A bridge over one stream.

    Args:
        early: what an earlier stream was refused with, to be sent again.
    """

    def __init__(self, stream: MuxStream, local: trio.SocketStream, early: list[bytes]) -> None:
        port = nowait(local)
        self.stream = stream
        self.machine = BridgeMachine()
        self.outward = Outward(stream, port, early, self.report)
        self.inward = Inward(stream, local, port, self.report)
        #: Why the stream was not accepted.
        self.refusal: StreamRefused | None = None
        #: Both directions, while they run.
        self._both = trio.CancelScope()

    async def run(self) -> None:
        """Both directions, to the end of both or of one."""
        async with trio.open_nursery() as nursery:
            self._both = nursery.cancel_scope
            nursery.start_soon(self._run_inward)
            await self.outward.run()

    def report(self, cause: Input, reason: Reason = Reason.NO_ERROR) -> None:
        """Pass an input to the machine, and carry out its command."""
        command = self.machine.apply(cause, reason)
        if command is Command.STOP:
            self._both.cancel()
        elif command is Command.LIMIT:
            self._both.deadline = trio.current_time() + _LAST_BYTES_SECONDS

    def outcome(self) -> Bridged:
        """How it ended, or how far it has come."""
        refusal = None if self.refusal is None else str(self.refusal)
        return self.machine.outcome(self.outward.sent, self.inward.received, refusal)

    @property
    def may_be_sent_again(self) -> bool:
        """The stream was refused, and the peer has processed nothing of what was sent on it."""
        if self.refusal is None:
            return False
        return self.machine.may_be_sent_again(self.refusal.reason, has_sent=any(self.outward.early))

    def cut_off(self) -> Reason:
        """End it although it has not finished. Returns why: it was cancelled where there is no other reason."""
        if self.machine.reason is Reason.NO_ERROR:
            reset_reason = self.stream.reset_reason  # maybe neither direction has noticed yet
            if reset_reason is Reason.NO_ERROR:
                self.report(Input.CANCELLED, Reason.CANCELLED)
            else:
                self.report(stream_broke(self.stream, reset_reason).cause, reset_reason)
        return self.machine.reason

    async def _run_inward(self) -> None:
        if self.stream.was_accepted or await self._wait_accepted():
            self.outward.early = []  # which may still be sending an earlier stream's
            self.report(Input.ACCEPTED)
            await self.inward.run()

    async def _wait_accepted(self) -> bool:
        """Wait for the answer to OPEN; False where it is a refusal, or does not come."""
        refusal = StreamRefused("no answer to OPEN in time", reason=Reason.TARGET_TIMEOUT)
        try:
            with trio.move_on_after(_OPENING_SECONDS):
                await self.stream.wait_opened()
        except StreamRefused as exc:
            refusal = exc
        if self.stream.was_accepted:
            return True
        self.refusal = refusal
        self.report(Input.STREAM_LOST if self.stream.was_lost else Input.REFUSED, refusal.reason)
        return False


async def bridge(
    stream: MuxStream,
    local: trio.SocketStream,
    *,
    reopen: Callable[[StreamRefused], Awaitable[MuxStream]] | None = None,
    progress: BridgeProgress | None = None,
) -> Bridged:
    """Join the two until both directions have ended, or one side breaks.

    End of file travels on its own in each direction. What breaks on one side breaks on the other: the stream is reset
    with a reason, the TCP connection is reset, and neither ever ends as if it were complete. If the peer only stops
    reading, what it had sent is still delivered. Both are closed on every way out; cancelled, both are reset.

    Args:
        stream: may still wait for the peer's answer; what is sent meanwhile follows OPEN.
        reopen: called at most once, if the peer refuses the stream and has not processed what was sent. Returns
            another stream for the same bytes, or raises `StreamRefused`.
        progress: shows at any time how far the bridge has come, also after a cancellation.
    """
    reset_on_close(local, True)
    progress = progress or BridgeProgress()
    joined = _Bridge(stream, local, [])
    progress.follow(joined)
    finished = False
    try:
        await joined.run()
        if reopen is not None and joined.refusal is not None and joined.may_be_sent_again:
            try:
                joined = _Bridge(await reopen(joined.refusal), local, joined.outward.early)
            except StreamRefused as exc:
                joined.refusal = exc
            else:
                progress.follow(joined)
                await joined.run()
        finished = joined.machine.has_finished
    finally:
        if finished:
            try:
                await joined.stream.aclose()
            finally:
                reset_on_close(local, False)
                await trio.aclose_forcefully(local)  # all FINs have left; nothing is discarded
        else:
            joined.stream.reset(joined.cut_off())
            await abort_stream(local)
    return joined.outcome()
