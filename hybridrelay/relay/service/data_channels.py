"""Serving the data channels of rendezvous: waiting for both, and then moving bytes between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic

import attrs
import trio

from ..._exception_groups import leaves
from ...protocol.preamble import encode_status
from ...protocol.reasons import Reason
from ..core.broker import Broker
from ..core.listener import HandleT
from ..core.rendezvous import Arrival
from ..core.rendezvous_states import Input, Side, State
from .handover import PairHandover
from .pace import PairPace
from .pump import Moved, PumpOutcome, abort
from .splice import PipePool
from .worker_process import WorkerPair, WorkerProcess
from .workers import Workers

__all__ = ["STATUS_SECONDS", "Channels", "DataChannels"]

#: How long sending a status may take (seconds).
STATUS_SECONDS = 10.0


@attrs.define(eq=False)
class Channels:
    """The data channels of one rendezvous that are ready, and the bytes that were moved between them."""

    by_side: dict[Side, trio.abc.HalfCloseableStream] = attrs.field(factory=dict)
    #: Cancels the moving of bytes; None before it begins.
    moving: trio.CancelScope | None = None
    #: Set when the rendezvous has ended.
    over: trio.Event = attrs.field(factory=trio.Event)
    #: Why the rendezvous has ended. This is the status for a channel that is waiting to be joined.
    status: Reason = Reason.NO_ERROR
    #: The names of their transports.
    transports: dict[Side, str] = attrs.field(factory=dict)
    moved: Moved = attrs.field(factory=Moved)
    #: What the next main process has to know about them, once they are joined.
    handover: PairHandover | None = None

    # `Workers.move` gets the connector's channel first, so `a` is the connector and `b` the client.

    @property
    def to_client(self) -> int:
        """Bytes that were passed to the client's data channel so far."""
        return self.moved.total_a_to_b

    @property
    def to_connector(self) -> int:
        """Bytes that were passed to the connector's data channel so far."""
        return self.moved.total_b_to_a


class DataChannels(Generic[HandleT]):
    """Serves data channels; see the module's docstring.

    Args:
        core: the machine that decides.
        carry_out: carries out what `core` has decided; called after each input.
        pipes: pipes for moving bytes in the kernel.
        workers: moves the bytes, in worker processes if possible.
        joined: called with the id of a rendezvous and its data channels when these are joined. Sets
            `Channels.handover`, and returns the limits for them: their rate, and their turns of the event loop.
    """

    def __init__(
        self,
        core: Broker[HandleT],
        carry_out: Callable[[], None],
        pipes: PipePool,
        workers: Workers,
        joined: Callable[[str, Channels], PairPace],
    ) -> None:
        self._core = core
        self._carry_out = carry_out
        self._pipes = pipes
        self._workers = workers
        self._joined = joined
        self._channels: dict[str, Channels] = {}

    def bytes_from_sender(self, rendezvous_id: str) -> int:
        """Return how many bytes from the client were passed on so far, in a joined rendezvous."""
        return self._channels[rendezvous_id].to_connector

    def abandon(self, arrival: Arrival) -> None:
        """Note that a data channel has ended before it was joined, or will not be passed to `serve`. Does nothing if
        the rendezvous was joined or has ended."""
        self._core.gone(arrival, trio.current_time())
        self._carry_out()

    def establish(self, rendezvous_id: str) -> None:
        """Note that the place of a pair is established. Does nothing if it is not joined."""
        channels = self._channels.get(rendezvous_id)
        if channels is not None and channels.handover is not None:
            channels.handover.establish()

    def refuse(self, rendezvous_id: str, reason: Reason) -> None:
        """Carry out `core.commands.RefuseDataChannel`."""
        if channels := self._channels.pop(rendezvous_id, None):
            channels.status = reason
            channels.over.set()

    def stop_moving(self, rendezvous_id: str) -> None:
        """Carry out `core.commands.StopMoving`."""
        moving = self._channels[rendezvous_id].moving
        assert moving is not None, "only a joined rendezvous can be stopped"
        moving.cancel()

    async def serve(self, arrival: Arrival, stream: trio.abc.HalfCloseableStream, transport: str = "") -> None:
        """Serve one data channel of a rendezvous until its end. Always closes `stream`, even if cancelled.

        The channels may arrive in a different order than their tickets were used, and the rendezvous may have ended
        in the meantime.

        Args:
            arrival: what `RendezvousTable.use` has returned.
            stream: the data channel, after its ticket.
            transport: its name, for the status.
        """
        state = self._core.ready(arrival, trio.current_time())
        if state is State.ENDED:
            await _send_status(stream, Reason.PEER_ABSENT)
            return
        channels = self._channels.setdefault(arrival.rendezvous_id, Channels())
        channels.by_side[arrival.side] = stream
        channels.transports[arrival.side] = transport
        if state is State.JOINED:
            pace = self._joined(arrival.rendezvous_id, channels)
            channels.moving = trio.CancelScope()
            self._carry_out()
            await self._move(arrival, channels, channels.moving, pace)
            return
        try:
            await channels.over.wait()
        except BaseException:
            # Nothing may be awaited before this, because the task may be cancelled.
            if channels.moving is None:
                self.abandon(arrival)
                await abort(stream)
            else:
                # The task that moves the bytes closes the stream, because it may be using it at this moment.
                channels.moving.cancel()
                with trio.CancelScope(shield=True):  # takes only a moment, because that task was cancelled
                    await channels.over.wait()
            raise
        # If the two were joined, the stream is already closed, and this does nothing.
        await _send_status(stream, channels.status)

    def take_over(self, channels: Channels, handover: PairHandover) -> None:
        """Add the data channels of a pair that a worker has kept for this main process. Call `go_on` next."""
        channels.handover = handover
        channels.moving = trio.CancelScope()
        self._channels[handover.note.id] = channels

    async def go_on(self, channels: Channels, worker: WorkerProcess, pair: WorkerPair) -> None:
        """Serve a pair that was passed to `take_over`, until its end."""
        assert channels.handover is not None
        assert channels.moving is not None
        with self._reporting_end(channels.handover.note.id, channels) as end, channels.moving:
            end.note(
                await self._workers.go_on(
                    worker, pair, moved=channels.moved, pipes=self._pipes, handover=channels.handover
                )
            )

    async def _move(self, arrival: Arrival, channels: Channels, moving: trio.CancelScope, pace: PairPace) -> None:
        """Notify both sides that they are joined, and move bytes between them until the pair ends."""
        listener, sender = channels.by_side[Side.LISTENER], channels.by_side[Side.SENDER]
        with self._reporting_end(arrival.rendezvous_id, channels) as end:
            pumped = False
            try:
                with moving:
                    if await _announce_join(listener, sender):
                        pumped = True
                        outcome = await self._workers.move(
                            listener,
                            sender,
                            moved=channels.moved,
                            pipes=self._pipes,
                            pace=pace,
                            handover=channels.handover,
                        )
                        end.note(outcome)
                    else:
                        end.how = Input.BREAKS
            finally:
                if not pumped:
                    await abort(listener, sender)

    @contextmanager
    def _reporting_end(self, rendezvous_id: str, channels: Channels) -> Iterator[_End]:
        """Report to the machine, after the block, that the bytes of a pair are no longer moved."""
        end = _End()
        try:
            yield end
        except BaseException as exc:
            if not all(isinstance(leaf, trio.Cancelled) for leaf in leaves(exc)):
                end.how = Input.BREAKS
            raise
        finally:
            self._core.moving_ended(
                rendezvous_id,
                end.how,
                trio.current_time(),
                bytes_to_client=channels.to_client,
                bytes_to_connector=channels.to_connector,
            )
            self._carry_out()


@attrs.define(eq=False)
class _End:
    """How a pair has ended. If nothing is noted, it was cancelled, by the caller or through `Channels.moving`."""

    how: Input = Input.CANCELLED

    def note(self, outcome: PumpOutcome) -> None:
        self.how = _HOW.get(outcome, Input.BREAKS)


_HOW = {PumpOutcome.FINISHED: Input.FINISHES, PumpOutcome.KEPT: Input.KEPT}


async def _announce_join(listener: trio.abc.HalfCloseableStream, sender: trio.abc.HalfCloseableStream) -> bool:
    """Notify both sides that they are joined. Returns False if one of them has left, or if this takes longer than
    `STATUS_SECONDS`."""
    status = encode_status(Reason.NO_ERROR)
    with trio.move_on_after(STATUS_SECONDS):
        try:
            await sender.send_all(status)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # A status, because after a reset the listener would assume that its own route to the relay is broken.
            await _send_status(listener, Reason.PEER_ABSENT)
            return False
        try:
            await listener.send_all(status)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True
    return False


async def _send_status(stream: trio.abc.HalfCloseableStream, reason: Reason) -> None:
    """Send a status to a data channel that is not joined, and close it."""
    try:
        with trio.move_on_after(STATUS_SECONDS):
            await stream.send_all(encode_status(reason))
            await stream.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # it left first
    finally:
        await trio.aclose_forcefully(stream)
