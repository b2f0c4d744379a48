"""One flow of datagrams of an application, from the request to its one outcome. It is served like a stream, but has a
task of its own as long as it lasts."""

from __future__ import annotations

import socket
from typing import ClassVar

from ..mux import Bridges
from ..policy import Action
from ..protocol.reasons import Reason
from ..security import HostPort
from .flow_bridge import FlowBridge, FlowTotals
from .outcome import NotConnected, outcome_of_flow
from .recent_ports import Way
from .served_stream import Connected, ServedStream, peer_address
from .shares import Share
from .targets import open_datagram_target

__all__ = ["MAX_FLOWS_PER_SESSION", "ServedFlow"]

#: How many flows of datagrams a session may have. Each has a UDP socket, and any datagram of an application from
#: another port opens one.
MAX_FLOWS_PER_SESSION = 1024


class ServedFlow(ServedStream):
    """One flow of datagrams, from the application's request to its one outcome."""

    __slots__ = ("_way",)
    action: ClassVar = Action.OPEN_DATAGRAMS

    @property
    def so_far(self) -> FlowTotals | None:
        """What the flow has carried; None while the target is not connected."""
        return self._bridge.so_far() if isinstance(self._bridge, FlowBridge) else None

    @property
    def _shares(self) -> tuple[Share, ...]:
        shares = self._serving.shares
        return shares.descriptors, shares.datagram_ports

    async def _admit_and_connect(self) -> Connected | NotConnected:
        if self._serving.streams.flows_of(self.origin.session) > MAX_FLOWS_PER_SESSION:  # this one is counted
            text = f"the session has {MAX_FLOWS_PER_SESSION} flows of datagrams, which is the limit"
            return NotConnected(Reason.LIMIT, text, text)
        return await super()._admit_and_connect()

    def _not_connected(self, outcome: NotConnected) -> None:
        self._serving.counters.datagrams_dropped["refused"] += self._offer.waiting_datagrams
        super()._not_connected(outcome)

    async def _connect_measured(self) -> Connected:
        assert isinstance(self._target, HostPort)
        return await open_datagram_target(self._target, permit=self._permit, foreign_since=self._foreign_since)

    def _foreign_since(self, sock: socket.socket) -> float | None:
        """Return when another application has had the local port of a connected socket, if that matters; see
        `RecentPorts`."""
        return self._serving.recent_ports.foreign_since(_way_of(sock), self._owner, self._serving.clock())

    def _start(self, target: Connected, bridges: Bridges) -> None:
        assert isinstance(target, socket.socket)
        assert isinstance(self._target, HostPort)
        self._way = _way_of(target)
        self.events.address = peer_address(target)
        counters = self._serving.counters
        counters.stream_opened(self.origin.published.name)
        self._bridge = FlowBridge(self._offer.accept_flow(), target, self._target.port, counters)

    async def run(self) -> None:
        """Serve the flow until it ends, if it was opened. If cancelled, it is reset."""
        if not isinstance(bridge := self._bridge, FlowBridge):
            return
        bug: Exception | None = None
        try:
            await bridge.run()
        except Exception as exc:  # noqa: BLE001 - it is logged, and must not affect other streams
            bug = exc
            self._report_bug(exc)
        finally:
            if bridge.so_far().datagrams_to_target:  # otherwise, the target does not know the port
                self._serving.recent_ports.ended(self._way, self._owner, self._serving.clock())
            self._give_back()
            bridge.flow.set_end_callback(
                lambda end: self.events.ended(
                    outcome_of_flow(
                        end, bridge.so_far(), self._cut_off_because(bug), has_target_failed=bridge.has_target_failed
                    )
                )
            )


def _way_of(sock: socket.socket) -> Way:
    return sock.getsockname()[1], tuple(sock.getpeername())
