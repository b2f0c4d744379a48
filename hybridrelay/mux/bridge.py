"""Joining a stream of a session with a TCP connection on this machine: the application's, or the target's.

The task that reads the channel writes to the TCP connection itself, as much as the connection accepts without
blocking. In the same way, the task that reads the TCP connection writes to the channel. A small message thus wakes
one task in each process instead of three.

A bridge may begin before the peer has accepted the stream: the first bytes of the application follow OPEN
immediately, which saves a round trip. They are kept until the peer has answered, so that another stream can carry
them if the peer did not process this one.

This module contains the life cycle of a bridge. `bridging.py` decides how a bridge ends, and `_directions.py` moves
the bytes.
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

#: How long the last bytes of a peer that has stopped reading may take to be delivered to the TCP connection
#: (seconds).
_LAST_BYTES_SECONDS = 30.0
#: How long the peer's answer to OPEN may take (seconds): 10 s for connecting to the target, and the rest for a
#: session that resumes meanwhile.
_OPENING_SECONDS = 30.0


class BridgeProgress:
    """Shows the progress of `bridge` to its caller while it runs, and after it has ended or was cancelled."""

    def __init__(self) -> None:
        self._bridge: _Bridge | None = None

    def when_settled(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, as soon as `so_far` is the final outcome. For use after `bridge` has returned or
        raised.

        If either side broke, that is at once. Otherwise it is when the peer has acknowledged everything, or the
        stream or its session has ended, or after 5 seconds. `callback` must neither wait nor raise.
        """
        if self._bridge is None:
            callback()
        else:
            self._bridge.when_settled(callback)

    def so_far(self) -> Bridged:
        """Return the progress of the bridge, or how it ended."""
        return Bridged(0, 0, Reason.NO_ERROR) if self._bridge is None else self._bridge.outcome()

    @property
    def stream(self) -> MuxStream | None:
        """The stream that the bridge uses, or used last; None before it has begun."""
        return None if self._bridge is None else self._bridge.stream

    def follow(self, bridge: _Bridge) -> None:
        """Show the progress of this bridge from now on."""
        self._bridge = bridge


class _Bridge:
    """A bridge over one stream.

    Args:
        stream: the stream.
        local: the TCP connection.
        early: data that was sent on an earlier, refused stream and has to be sent again.
    """

    def __init__(self, stream: MuxStream, local: trio.SocketStream, early: list[bytes]) -> None:
        port = nowait(local)
        self.stream = stream
        self.machine = BridgeMachine()
        #: The two directions, which move the bytes; None when both sides are closed.
        self._directions: tuple[Outward, Inward] | None = (
            Outward(stream, port, early, self.report),
            Inward(stream, local, port, self.report),
        )
        #: How many bytes the TCP connection had accepted when it was closed.
        self._received = 0
        #: Why the stream was not accepted.
        self.refusal: StreamRefused | None = None
        #: Both directions, while they run.
        self._both = trio.CancelScope()
        self._settled_callback: Callable[[], None] | None = None

    async def run(self) -> None:
        """Run both directions until both have ended, or the machine stops them."""
        assert self._directions is not None, "a bridge runs once"
        outward, inward = self._directions
        async with trio.open_nursery() as nursery:
            self._both = nursery.cancel_scope
            nursery.start_soon(self._run_inward, outward, inward)
            await outward.run()

    def report(self, cause: Input, reason: Reason = Reason.NO_ERROR) -> None:
        """Pass an input to the machine, and execute its command."""
        command = self.machine.apply(cause, reason)
        if command is Command.STOP:
            self._both.cancel()
        elif command is Command.LIMIT:
            self._both.deadline = trio.current_time() + _LAST_BYTES_SECONDS
        if cause is Input.LOCAL_ENDED:
            self.stream.set_settled_callback(self._stream_settled)

    def when_settled(self, callback: Callable[[], None]) -> None:
        """See `BridgeProgress.when_settled`."""
        if self.machine.is_settled:
            callback()
        else:
            self._settled_callback = callback
            self.stream.limit_settling()

    def _stream_settled(self) -> None:
        """Report the end of an outgoing direction after its end of file: everything was delivered, or was not
        acknowledged in time."""
        stream = self.stream
        if stream.is_delivered:
            self.report(Input.DELIVERED)
        elif not stream.was_accepted:
            pass  # `_wait_accepted` reports the refusal
        elif stream.reset_reason is not Reason.NO_ERROR or stream.was_lost:
            self.report(stream_broke(stream, stream.failure_reason).cause, stream.failure_reason)
        elif not stream.is_settled:
            self.report(Input.UNACKNOWLEDGED)
        else:
            self.report(Input.PEER_STOPPED, stream.failure_reason)
        callback, self._settled_callback = self._settled_callback, None
        if callback is not None:
            callback()

    def outcome(self) -> Bridged:
        """Return how the bridge ended, or its progress so far."""
        refusal = None if self.refusal is None else str(self.refusal)
        received = self._received if self._directions is None else self._directions[1].received
        return self.machine.outcome(self.stream.sent_bytes, received, refusal)

    def let_go(self) -> None:
        """Drop both sides, which are closed, and keep only what the outcome needs."""
        if self._directions is not None:
            self._received, self._directions = self._directions[1].received, None

    @property
    def early(self) -> list[bytes]:
        """The data that was sent before the peer accepted the stream; b"" means the end of file."""
        return [] if self._directions is None else self._directions[0].early

    @property
    def may_be_sent_again(self) -> bool:
        """Whether the stream was refused before the peer processed anything that was sent on it."""
        if self.refusal is None:
            return False
        return self.machine.may_be_sent_again(self.refusal.reason, has_sent=any(self.early))

    def cut_off(self) -> Reason:
        """End the bridge before it has finished. Returns the reason, which is CANCELLED if there is no other."""
        if self.machine.reason is Reason.NO_ERROR:
            reset_reason = self.stream.reset_reason  # neither direction may have noticed yet
            if reset_reason is Reason.NO_ERROR:
                self.report(Input.CANCELLED, Reason.CANCELLED)
            else:
                self.report(stream_broke(self.stream, reset_reason).cause, reset_reason)
        return self.machine.reason

    async def _run_inward(self, outward: Outward, inward: Inward) -> None:
        if self.stream.was_accepted or await self._wait_accepted():
            outward.early = []  # a new list, since `outward` may still be sending the old one again
            self.report(Input.ACCEPTED)
            await inward.run()

    async def _wait_accepted(self) -> bool:
        """Wait for the answer to OPEN. Returns False if it is a refusal, or does not arrive in time."""
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
) -> None:
    """Move bytes between a stream and a TCP connection until both directions have ended, or one side breaks.

    End of file is passed on separately in each direction. If one side breaks, both are reset (the stream with a
    reason), so that neither seems to have ended normally. If the peer only stops reading, what it had sent is still
    delivered. If cancelled, both are reset. In every case, both are closed.

    Args:
        stream: the stream. The peer need not have accepted it yet; data is then sent right after OPEN.
        local: the TCP connection.
        reopen: called at most once, if the peer refuses the stream and has not processed what was sent. Returns
            another stream for the same bytes, or raises `StreamRefused`.
        progress: shows the progress at any time, even after cancellation.

    Returns when both are closed. Data that is queued on the stream may still be on its way then.
    `progress.when_settled` reports the final outcome.
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
                joined = _Bridge(await reopen(joined.refusal), local, joined.early)
            except StreamRefused as exc:
                joined.refusal = exc
            else:
                progress.follow(joined)
                await joined.run()
        finished = joined.machine.has_finished
    finally:
        try:
            if finished:
                try:
                    await joined.stream.aclose()
                finally:
                    reset_on_close(local, False)
                    await trio.aclose_forcefully(local)  # nothing is discarded: both ends of file were passed on
            else:
                joined.stream.reset(joined.cut_off())
                await abort_stream(local)
        finally:
            joined.let_go()
