"""Moves datagrams between a flow and a UDP socket that is connected to the target."""

from __future__ import annotations

import errno
import socket

import attrs
import trio

from .._value import Value
from ..connectivity.counters import CountedDatagrams, EndpointCounters
from ..mux import DatagramFlow
from ..protocol.config import MAX_DATAGRAM
from ..protocol.datagrams import MAX_QUEUED_DATAGRAMS
from ..protocol.reasons import Reason
from ..streams.datagrams import TOO_LONG_ERRNOS, has_no_room, lost_in_buffer
from .idle import IdleRule

__all__ = ["FlowBridge", "FlowTotals"]

#: Why the target cannot be reached, by errno (which the system derives from an ICMP message). Every other errno means
#: TARGET_UNREACHABLE.
_BY_ERRNO = {errno.ECONNREFUSED: Reason.TARGET_REFUSED, errno.ECONNRESET: Reason.TARGET_REFUSED}
#: How many datagrams are received from the target before other tasks run, if the turn of the application is not over
#: before that: as many as a flow may queue.
_BATCH = MAX_QUEUED_DATAGRAMS


@attrs.frozen
class FlowTotals(Value):
    """What a flow has carried so far."""

    #: Those that were sent to the target.
    datagrams_to_target: int
    #: Those that were received from the target. Some may have been dropped since, and are then in `dropped`, too.
    datagrams_to_client: int
    bytes_to_target: int
    bytes_to_client: int
    #: Datagrams that this connector has dropped, in both directions.
    dropped: int


class FlowBridge:
    """Serves one flow. `run` moves the datagrams from the target; those from the application are sent when they
    arrive, by the task that reads the channel.

    Args:
        flow: the flow, which was accepted.
        sock: a UDP socket that is connected to the target and does not block. It is closed at the end of `run`.
        port: the target's port.
        counters: counts the datagrams.
    """

    def __init__(self, flow: DatagramFlow, sock: socket.socket, port: int, counters: EndpointCounters) -> None:
        self.flow = flow
        self._socket = sock
        self._idle = IdleRule(port, trio.current_time())
        #: The scope in which the target's datagrams are awaited.
        self._waiting = trio.CancelScope()
        self._counters = counters
        #: Whether the flow has ended because of the target.
        self.has_target_failed = False
        self._datagrams_to_target = self._datagrams_to_client = 0
        self._bytes_to_target = self._bytes_to_client = 0

    def so_far(self) -> FlowTotals:
        """Return what was carried so far, or in all if the flow has ended."""
        return FlowTotals(
            self._datagrams_to_target,
            self._datagrams_to_client,
            self._bytes_to_target,
            self._bytes_to_client,
            self.flow.dropped.total,
        )

    def _counted(self) -> CountedDatagrams:
        return CountedDatagrams(self._datagrams_to_target, self._datagrams_to_client, self.flow.dropped)

    async def run(self) -> None:
        """Serve the flow until it ends: because either side ends it, it is idle, or the target cannot be reached.

        If cancelled, the flow is reset.
        """
        self._counters.datagrams_began(self, self._counted)
        try:
            self.flow.set_watcher(self._deliver)
            self._deliver()
            while not self.flow.has_ended:
                with trio.CancelScope(deadline=self._idle.deadline) as self._waiting:
                    await self._receive()
                if trio.current_time() >= self._idle.deadline:
                    self.flow.close_nowait()
        finally:
            self.flow.set_watcher(None)
            self.cut_off(Reason.GOING_AWAY)
            self.flow.dropped.system += lost_in_buffer(self._socket)
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._counters.datagrams_ended(self)

    def cut_off(self, reason: Reason) -> None:
        """End the flow now. Has no effect if it has ended."""
        if not self.flow.has_ended:
            self.flow.reset(reason)
            self._waiting.cancel()

    async def _receive(self) -> None:
        """Wait for datagrams from the target, and for a turn of the application, and pass on at most `_BATCH` of
        them. What a target sends counts in the turn of the application, however many flows that has."""
        await trio.lowlevel.wait_readable(self._socket)
        turns = self.flow.turns
        if turns.begin():
            await turns.next()
        for _ in range(_BATCH):
            try:
                data = self._socket.recv(MAX_DATAGRAM + 1)
            except BlockingIOError:
                return
            except OSError as exc:
                self._fail(exc)
                return
            if self.flow.has_ended:
                return
            self._idle.received(trio.current_time())
            self.flow.send_nowait(data)
            self._datagrams_to_client += 1
            self._bytes_to_client += len(data)
            if turns.use(1, len(data)):
                return

    def _deliver(self) -> None:
        """Send to the target what has arrived from the client."""
        while not self.flow.has_ended or self.flow.has_input:
            data = self.flow.receive_nowait()
            if data is None:
                break
            self._send(data)
        if self.flow.has_ended:
            self._waiting.cancel()
        else:
            self._waiting.deadline = self._idle.deadline

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as exc:
            if exc.errno in TOO_LONG_ERRNOS:
                self.flow.dropped.size += 1
            elif has_no_room(exc):
                self.flow.dropped.queue += 1
            else:
                self._fail(exc)
        else:
            self._idle.sent(trio.current_time())
            self._datagrams_to_target += 1
            self._bytes_to_target += len(data)

    def _fail(self, error: OSError) -> None:
        """End the flow, because the target cannot be reached."""
        if not self.flow.has_ended:
            self.has_target_failed = True
            reason = _BY_ERRNO.get(error.errno or 0, Reason.TARGET_UNREACHABLE)
            self.flow.reset(reason, reason.describe)
            self._waiting.cancel()
