"""Local ports for datagrams: all datagrams from one source address are one flow."""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Collection
from functools import partial

import attrs
import trio

from ..._unexpected_failure import unexpected_failure
from ..._wildcard_datagrams import LocalSocket, Source
from ...connectivity.counters import CountedDatagrams
from ...connectivity.endpoint import format_address
from ...errors import HybridRelayError, RelayUnreachable
from ...events.client import DatagramsDropped, FlowNotOpened, FlowsUsedUp
from ...mux import DatagramFlow
from ...protocol.config import KIB, MAX_DATAGRAM
from ...protocol.datagrams import MAX_QUEUED_DATAGRAMS, MAX_WAIT_SECONDS, DatagramQueue, Dropped
from ...streams.datagrams import TOO_LONG_ERRNOS, enlarge_buffer, lost_in_buffer
from ...streams.turns import SharedTurns
from ..client import Client

__all__ = ["MAX_LOCAL_FLOWS", "serve_datagrams"]

#: How many flows one local port may have. Any program of this machine can open flows, by sending from many ports. A
#: connector accepts a few more in a session (1,024), because it learns later than this program that a flow has ended.
MAX_LOCAL_FLOWS = 960
#: When a port has `MAX_LOCAL_FLOWS` flows, a new one displaces the flow whose program has been silent for the longest
#: time, if that is at least this long (seconds). A busy resolver needs a new port for each of its queries.
DISPLACE_SECONDS = 1.0
#: The memory for datagrams that wait for a session, of all flows of a port together (bytes). Once there is a session,
#: its budget counts them.
MAX_EARLY_BYTES = 4096 * KIB
#: How many datagrams are received before other tasks run, unless the turn is over before that: as many as one flow
#: may queue.
_BATCH = MAX_QUEUED_DATAGRAMS
#: How long a flow may be idle (seconds). This is longer than at the connector, which knows the target and ends the
#: flow first.
IDLE_SECONDS = 90.0
#: How long a flow continues after its program has last sent something, even if the target goes on sending (seconds);
#: see `connector.idle`. Longer than at the connector, too.
SILENT_SECONDS = 330.0
#: How long to wait for a session (seconds), unless the client's `open_patience` is longer.
OPEN_SECONDS = 30.0
#: How long datagrams of a source address are dropped after its flow could not be opened, or has failed (seconds), so
#: that a program that sends without pause does not cause a request for each datagram.
PAUSE_SECONDS = 1.0
#: The pause after an error of the socket that concerns no single datagram (seconds).
_ERROR_SECONDS = 0.1
#: How often to report datagrams that were dropped before they belonged to a flow (seconds).
REPORT_SECONDS = 30.0


@attrs.define
class _EarlyMemory:
    """Counts the datagrams of all flows of a port that wait for a session."""

    held: int = 0

    def take(self, amount: int) -> bool:
        """Count `amount` bytes more, if there is room for them. Returns whether there was."""
        if self.held + amount > MAX_EARLY_BYTES:
            return False
        self.held += amount
        return True

    def release(self, amount: int) -> None:
        """Count `amount` bytes less."""
        self.held -= amount


async def serve_datagrams(
    client: Client, sock: socket.socket, target_port: int | None = None, *, turns: SharedTurns | None = None
) -> None:
    """Pass on what arrives at a UDP socket, and the answers, until cancelled. Then all flows are ended.

    An error of one flow does not affect others. The socket stays open.

    Args:
        client: opens the flows.
        sock: is bound, and does not block.
        target_port: the port of the target; None: its first one.
        turns: the turns in which what arrives is counted. Ports that belong together share them, so that programs
            that send to many of them get no more time. None: this port has turns of its own.
    """
    enlarge_buffer(sock)
    counters = client.requests.counters
    async with trio.open_nursery() as nursery:
        port = _Port(client, sock, nursery, target_port, SharedTurns() if turns is None else turns)
        counters.datagrams_began(port, port.counted)
        nursery.start_soon(port.report)
        try:
            await port.receive()
        finally:
            counters.datagrams_ended(port)


class _Port:
    def __init__(
        self,
        client: Client,
        sock: socket.socket,
        nursery: trio.Nursery,
        target_port: int | None,
        turns: SharedTurns,
    ) -> None:
        self.client = client
        self._turns = turns
        self.socket = LocalSocket(sock)
        self.target_port = target_port
        self._nursery = nursery
        #: In the order in which their programs have last sent something.
        self._flows: OrderedDict[Source, _LocalFlow] = OrderedDict()
        #: Whether `FlowsUsedUp` was published. False again once half of the flows have ended.
        self._is_full = False
        #: Counts the datagrams that wait for a session.
        self.early_memory = _EarlyMemory()
        #: What was dropped before it belonged to a flow of a session.
        self.dropped = Dropped()
        #: Whether `_drop_late` runs.
        self._is_dropping = False

    def counted(self) -> CountedDatagrams:
        """Return the counts of datagrams that were dropped before they belonged to a flow of a session."""
        self.dropped.system = lost_in_buffer(self.socket.socket)
        return CountedDatagrams(0, 0, self.dropped)

    async def report(self) -> None:
        """Publish from time to time what was dropped before it belonged to a flow, until cancelled."""
        address, before = format_address(*self.socket.socket.getsockname()[:2]), Dropped()
        while True:
            await trio.sleep(REPORT_SECONDS)
            now = attrs.evolve(self.counted().dropped)
            if now != before:
                more = {name: getattr(now, name) - getattr(before, name) for name in attrs.asdict(now)}
                event = DatagramsDropped(connection=self.client.connection, address=address, **more)
                self.client.events.publish(event)
            before = now

    async def receive(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self.socket.socket)
            if self._turns.begin():
                await self._turns.next()
            has_received = False
            try:
                for _ in range(_BATCH):
                    size = self._receive_nowait()
                    has_received = True
                    if self._turns.use(1, size):
                        break
            except OSError as exc:
                if has_received and isinstance(exc, BlockingIOError):
                    continue
                # The socket was readable because of an error, perhaps about an earlier answer.
                if self._end_unreachable() is None and not isinstance(exc, BlockingIOError):
                    self.client.events.publish(unexpected_failure("datagrams", exc, self.client.connection))
                    await trio.sleep(_ERROR_SECONDS)

    def _receive_nowait(self) -> int:
        """Receive one datagram, and return its size. Raises OSError if there is none, or the socket has failed."""
        try:
            data, source = self.socket.receive(MAX_DATAGRAM + 1)
        except ConnectionResetError:
            return 0  # Windows reports that an earlier answer has not reached its program
        flow = self._flows.get(source)
        if flow is None:
            flow = self._begin(source)
        else:
            self._flows.move_to_end(source)
        if flow is None:
            self.dropped.queue += 1
        else:
            flow.send(data)
        return len(data)

    def send(self, data: bytes, to: Source) -> None:
        """Answer a program. Raises OSError."""
        try:
            self.socket.send(data, to)
        except OSError:
            gone = self._end_unreachable()
            if gone is None:
                raise
            if to[0][:2] not in gone:
                self.socket.send(data, to)  # the error was about an earlier answer, to another program

    def _end_unreachable(self) -> Collection[tuple[str, int]] | None:
        """End the flows of programs that have closed their sockets: otherwise, another program that is given the same
        port would get the answers.

        Returns:
            The addresses of these programs, if the system has reported errors about earlier answers; otherwise None.
        """
        errors = self.socket.errors()
        if not errors:
            return None
        gone = {address[:2] for address in errors if address is not None}
        if gone:
            for flow in [flow for flow in self._flows.values() if flow.source[0][:2] in gone]:
                flow.end()
        return gone

    def _begin(self, source: Source) -> _LocalFlow | None:
        if len(self._flows) >= MAX_LOCAL_FLOWS and not self._displace():
            if not self._is_full:
                self._is_full = True
                self.client.events.publish(FlowsUsedUp(connection=self.client.connection, limit=MAX_LOCAL_FLOWS))
            return None
        flow = self._flows[source] = _LocalFlow(self, source)
        self._nursery.start_soon(flow.run)
        return flow

    def _displace(self) -> bool:
        """End the flow whose program has been silent for the longest time, if that is at least `DISPLACE_SECONDS`.

        Returns whether a flow was ended.
        """
        flow = next(iter(self._flows.values()))
        if trio.current_time() - flow.sent_at < DISPLACE_SECONDS:
            return False
        flow.end()
        return True

    def drop_late_soon(self) -> None:
        """Start dropping datagrams that have waited too long for a session, until none waits."""
        if not self._is_dropping:
            self._is_dropping = True
            self._nursery.start_soon(self._drop_late)

    async def _drop_late(self) -> None:
        while self.early_memory.held:
            await trio.sleep(MAX_WAIT_SECONDS)
            for flow in self._flows.values():
                flow.drop_late()
        self._is_dropping = False

    def forget(self, flow: _LocalFlow) -> None:
        """Remove a flow: the next datagram from its source address begins another one. Idempotent."""
        if self._flows.get(flow.source) is flow:
            del self._flows[flow.source]
        self._is_full = self._is_full and len(self._flows) > MAX_LOCAL_FLOWS // 2


class _LocalFlow:
    """The datagrams from and to one source address."""

    def __init__(self, port: _Port, source: Source) -> None:
        self._port = port
        self.source = source
        #: None until there is a session.
        self._flow: DatagramFlow | None = None
        #: What was received before there was a session.
        self._early = DatagramQueue(port.early_memory, port.dropped)
        self._has_ended = False
        #: The scope in which `_serve` waits for the idle deadline; cancelled when the flow has ended.
        self._waiting = trio.CancelScope()
        #: Ends the flow.
        self._scope = trio.CancelScope()
        #: When the program has last sent something, and when it has last sent or received something.
        self.sent_at = self._last = trio.current_time()

    def end(self) -> None:
        """End the flow, for both sides."""
        self._port.forget(self)
        self._scope.cancel()

    def send(self, data: bytes) -> None:
        """Pass on a datagram of the application."""
        self.sent_at = self._last = trio.current_time()
        if self._flow is not None and not self._flow.has_ended:
            self._flow.send_nowait(data)
        elif self._has_ended:
            self._port.dropped.refused += 1
        elif len(data) > MAX_DATAGRAM:
            self._port.dropped.size += 1
        else:
            self._early.put(data, self._last)
            self._port.drop_late_soon()

    def drop_late(self) -> None:
        """Drop datagrams that have waited too long for a session."""
        self._early.drop_late(trio.current_time())

    async def run(self) -> None:
        """Serve the flow until it ends. Events report how it ended."""
        try:
            with self._scope:
                try:
                    await self._serve()
                finally:
                    self._port.dropped.refused += len(self._early)
                    self._early.clear()
                if self._has_failed:
                    await trio.sleep(PAUSE_SECONDS)
        except Exception as exc:  # noqa: BLE001 - a bug, or no memory: it must not affect other flows
            self._port.client.events.publish(unexpected_failure("flow", exc, self._port.client.connection))
        finally:
            self._port.forget(self)

    @property
    def _has_failed(self) -> bool:
        return self._flow is None or bool(self._flow.reset_reason)

    async def _serve(self) -> None:
        client = self._port.client
        try:
            with trio.fail_after(max(OPEN_SECONDS, client.open_patience)):
                address = partial(format_address, *self.source[0][:2])
                flow = self._flow = await client.open_flow(
                    port=self._port.target_port, wait_opened=False, application=address
                )
        except (HybridRelayError, trio.ClosedResourceError, trio.TooSlowError) as exc:
            self._has_ended = True
            if not isinstance(exc, trio.ClosedResourceError):  # then the client was closed
                no_session = RelayUnreachable("there was no session in time")
                self._report(no_session if isinstance(exc, trio.TooSlowError) else exc)
            return
        try:
            flow.set_watcher(self._deliver)
            while not flow.has_ended and (data := self._early.take(trio.current_time())) is not None:
                flow.send_nowait(data)
            self._deliver()
            while not flow.has_ended:
                deadline = min(self._last + IDLE_SECONDS, self.sent_at + SILENT_SECONDS)
                if trio.current_time() >= deadline:
                    flow.close_nowait()
                    return
                with trio.CancelScope(deadline=deadline) as self._waiting:
                    await trio.sleep_forever()
            if flow.reset_reason and not flow.was_accepted:
                self._report(flow.refusal())
        finally:
            self._has_ended = True
            flow.set_watcher(None)
            flow.close_nowait()

    def _report(self, error: HybridRelayError) -> None:
        """Publish that no flow could be opened."""
        application = format_address(*self.source[0][:2])
        client = self._port.client
        client.events.publish(
            FlowNotOpened(
                connection=client.connection, application=application, reason=error.reason, detail=str(error)
            )
        )

    def _deliver(self) -> None:
        """Pass on to the application what has arrived from the target."""
        flow = self._flow
        assert flow is not None
        while flow.has_input and not self._scope.cancel_called and (data := flow.receive_nowait()) is not None:
            self._last = trio.current_time()
            try:
                self._port.send(data, self.source)
            except OSError as exc:  # the program is gone, or the system has no room: UDP loses datagrams
                if exc.errno in TOO_LONG_ERRNOS:
                    flow.dropped.size += 1
                else:
                    flow.dropped.queue += 1
        if flow.has_ended:
            if not self._has_failed:
                self._port.forget(self)
            self._waiting.cancel()
