"""Running bridges, without a task for each; see `bridge.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from .._nursery import FlatNursery
from ..errors import StreamRefused
from ..protocol.reasons import Reason
from ..streams.reactor import Reactor, using_reactor
from ..streams.sockets import reset_on_close
from .bridge import Bridge
from .bridging import Bridged
from .stream import MuxStream

__all__ = ["BridgeProgress", "Bridges", "RunningBridge", "bridge", "open_bridges"]

#: How often a buffer of the system is checked while a process ends (seconds).
_CHECK_SECONDS = 0.01

#: Returns another stream for the same bytes, or raises `StreamRefused`.
Reopen = Callable[[StreamRefused], Awaitable[MuxStream]]


class BridgeProgress:
    """Shows the progress of a bridge while it runs, and after it has ended or was cut off."""

    __slots__ = ("_bridge",)

    def __init__(self) -> None:
        self._bridge: Bridge | None = None

    def when_settled(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, as soon as `so_far` is the final outcome. For use when the bridge has ended.

        If either side broke, it is called at once. Otherwise it is called when the peer has acknowledged everything,
        or when the stream or its session has ended, and after 5 seconds at the latest. It must neither wait nor
        raise.
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

    def follow(self, bridge: Bridge) -> None:
        """Show the progress of this bridge from now on."""
        self._bridge = bridge


class Bridges:
    """The bridges of one scope; made by `open_bridges`."""

    def __init__(self, reactor: Reactor, nursery: trio.Nursery) -> None:
        self._reactor = reactor
        self._nursery = nursery
        #: The bridges that have not ended, in the order in which they began.
        self._running: dict[RunningBridge, None] = {}
        #: Set when the last one has ended, and replaced when somebody waits afterwards.
        self._empty = trio.Event()
        #: How many `cut_off` has cut off.
        self.cut_off_count = 0

    def __len__(self) -> int:
        """Return how many have not ended."""
        return len(self._running)

    def start(
        self,
        stream: MuxStream,
        local: trio.SocketStream,
        *,
        reopen: Reopen | None = None,
        progress: BridgeProgress | None = None,
        over: Callable[[Exception | None], None] = lambda _error: None,
    ) -> RunningBridge:
        """Move bytes between a stream and a TCP connection until both directions have ended, or one side breaks.

        End of file is passed on separately in each direction. If one side breaks, both are reset (the stream with a
        reason), so that neither seems to have ended normally. If the peer only stops reading, what it had sent is
        still delivered. If the bridge is cut off at the end of the scope, both are reset. In every case, both are
        closed. Does not wait.

        Args:
            stream: the stream. The peer need not have accepted it yet; data is then sent right after OPEN.
            local: the TCP connection.
            reopen: called at most once, if the peer refuses the stream and has not processed what was sent. Returns
                another stream for the same bytes, or raises `StreamRefused`.
            progress: shows the progress at any time, even after the end.
            over: called once, when both are closed; with an exception if a bug has ended the bridge. Data that is
                queued on the stream may still be on its way then; `progress.when_settled` reports the final outcome.
                Must neither wait nor raise.

        Returns:
            The bridge, with which it can be cut off.

        Raises:
            Exception: a bug, or no memory. There is no bridge then, and `over` is not called: the caller closes both.
        """
        running = RunningBridge(self, local, reopen, progress or BridgeProgress(), over)
        self._running[running] = None
        try:
            running.begin(stream, [])
        except BaseException:
            running.forget()
            raise
        return running

    def cut_off(self) -> None:
        """Reset all that have not ended."""
        self.cut_off_count += len(self._running)
        for running in list(self._running):
            running.cut_off()

    async def end_programs(self) -> None:
        """End the bridges as if the programs at the other ends of their TCP connections had closed them now.

        For a process that ends, and in which these programs run: what they have sent is still passed on. Returns when
        that is so for all bridges, or when they have ended; the caller sets the deadline, and calls `cut_off` for
        those that are left. If cancelled, another call continues.
        """
        left = list(self._running)
        while left:
            # The system's own buffers come first: on some systems, ending the reading discards what is in them. A
            # bridge whose buffers do not become empty, because the other side reads nothing, delays no other one.
            waiting = [running for running in left if running.has_unread()]
            for running in left:
                if running not in waiting:
                    running.end_program()
            left = waiting
            if left:
                await trio.sleep(_CHECK_SECONDS)  # nothing reports that a buffer has become empty
        await self.wait_empty()

    async def wait_empty(self) -> None:
        """Wait until all have ended."""
        while self._running:
            if self._empty.is_set():  # otherwise somebody waits for it already
                self._empty = trio.Event()
            await self._empty.wait()

    # --- for the bridges

    def begin(self, bridge: Bridge) -> None:
        """Begin to move bytes."""
        bridge.start(self._reactor)

    def start_soon(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a task in the scope."""
        self._nursery.start_soon(function)

    def ended(self, running: RunningBridge) -> None:
        """Note that a bridge has ended."""
        del self._running[running]
        if not self._running:
            self._empty.set()


class RunningBridge:
    """A bridge that has not ended: over a first stream, or over a second one."""

    __slots__ = ("_bridge", "_bridges", "_cut_off_reason", "_is_closed", "_local", "_over", "_progress", "_reopen")

    def __init__(
        self,
        bridges: Bridges,
        local: trio.SocketStream,
        reopen: Reopen | None,
        progress: BridgeProgress,
        over: Callable[[Exception | None], None],
    ) -> None:
        self._bridges = bridges
        self._local = local
        self._reopen = reopen
        self._progress = progress
        self._over = over
        self._bridge: Bridge | None = None
        self._cut_off_reason = Reason.CANCELLED
        self._is_closed = False

    def begin(self, stream: MuxStream, early: list[bytes]) -> None:
        """Use this stream, and send on it what was sent on a refused one."""
        reset_on_close(self._local, on=True)
        self._bridge = bridge = Bridge(stream, self._local, early, self._stopped)
        self._progress.follow(bridge)
        self._bridges.begin(bridge)

    def cut_off(self, reason: Reason = Reason.CANCELLED) -> None:
        """Reset both sides now, the stream with this reason. Has no effect if the bridge has ended."""
        if self._is_closed:
            return
        self._reopen = None
        self._cut_off_reason = reason
        if self._bridge is not None and not self._bridge.is_over:
            self._bridge.stop()
        else:
            self._close()

    def forget(self) -> None:
        """Note that the bridge could not begin."""
        if not self._is_closed:
            self._is_closed = True
            self._bridges.ended(self)

    def end_program(self) -> None:
        """End as if the program at the other end of the TCP connection had closed it now. Has no effect if the bridge
        has ended, or while `has_unread`."""
        if not self._is_closed and self._bridge is not None:
            self._bridge.end_program()

    def has_unread(self) -> bool:
        """Return whether the program has sent something that was not read here yet. Also true while another stream is
        opened, because nothing is read then."""
        if self._is_closed or self._bridge is None:
            return False
        return self._bridge.is_over or self._bridge.has_unread()

    def _stopped(self) -> None:
        bridge = self._bridge
        assert bridge is not None
        reopen = self._reopen is not None and bridge.bug is None and bridge.refusal is not None
        if reopen and bridge.may_be_sent_again():
            self._bridges.start_soon(self._open_again)
        else:
            self._close()

    async def _open_again(self) -> None:
        bridge, reopen = self._bridge, self._reopen
        if bridge is None or reopen is None or bridge.refusal is None:
            return  # cut off in the meantime
        self._reopen = None
        try:
            await bridge.wait_unregistered()
            stream = await reopen(bridge.refusal)
            if self._is_closed:
                stream.reset(Reason.CANCELLED)
            else:
                self.begin(stream, bridge.early)
        except StreamRefused as exc:
            bridge.refusal = exc
            self._close()
        except Exception as exc:  # noqa: BLE001 - a bug, which `over` reports
            bridge.bug = exc
            self._close()
        except BaseException:  # cancelled
            self._close()
            raise

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        bridge = self._bridge
        assert bridge is not None
        try:
            self._close_stream(bridge)
        except Exception as exc:  # noqa: BLE001 - a bug or no memory; it must not affect other bridges
            bridge.bug = bridge.bug or exc
        self._local.socket.close()  # with a reset, unless `_close_stream` has prevented it
        bridge.let_go()
        self._bridges.ended(self)
        self._over(bridge.bug)

    def _close_stream(self, bridge: Bridge) -> None:
        if bridge.machine.has_finished and bridge.bug is None:
            bridge.stream.close_nowait()
            if not bridge.outcome().program_ended:
                reset_on_close(self._local, on=False)  # so that what was written to it is still delivered
        else:
            bridge.stream.reset(bridge.cut_off(self._cut_off_reason))


@asynccontextmanager
async def open_bridges() -> AsyncIterator[Bridges]:
    """``async with open_bridges() as bridges``: a scope for bridges, like a nursery for tasks.

    The end of the block waits until all bridges have ended. If the block raises or is cancelled, those that have not
    are cut off: both sides are reset.
    """
    async with using_reactor() as reactor, FlatNursery() as nursery:
        bridges = Bridges(reactor, nursery)
        try:
            yield bridges
            await bridges.wait_empty()
        finally:
            bridges.cut_off()


async def bridge(
    stream: MuxStream,
    local: trio.SocketStream,
    *,
    reopen: Reopen | None = None,
    progress: BridgeProgress | None = None,
) -> None:
    """Run one bridge until it has ended; see `Bridges.start`. If cancelled, both sides are reset."""
    failure: Exception | None = None

    def over(error: Exception | None) -> None:
        nonlocal failure
        failure = error

    async with open_bridges() as bridges:
        bridges.start(stream, local, reopen=reopen, progress=progress, over=over)
    if failure is not None:
        raise failure
