"""Counting the events of a relay, for metrics. Pure."""

from __future__ import annotations

from collections import Counter

from ..events.base import Event
from ..events.relay import (
    ControlChannelDisplaced,
    ListenerChosen,
    ListenerLeft,
    ListenerRefused,
    ListenerRegistered,
    RendezvousEnded,
    RendezvousJoined,
    RendezvousTakenOver,
    SenderRefused,
    TokenInvalid,
    TokenRefused,
)
from ..events.relay_changes import ConnectionDeleted
from ..protocol.reasons import Reason

__all__ = ["MAX_CONNECTIONS", "OTHER", "RelayCounters"]

#: How many hybrid connections are counted by name. The others are counted together, so that the number of series
#: that a monitoring system has to store is bounded.
MAX_CONNECTIONS = 1000
#: The label under which those others are counted together.
OTHER = "_other"

#: Refusals that are not the fault of the peer.
_SERVER_ERRORS = frozenset(
    {
        Reason.LIMIT,
        Reason.BUSY,
        Reason.INTERNAL_ERROR,
        Reason.RELAY_DRAINING,
        Reason.LISTENER_QUOTA,
        Reason.SENDER_QUOTA,
        Reason.SESSION_QUOTA,
        Reason.TRANSFER_QUOTA,
        Reason.LISTENER_SILENT,
        Reason.LISTENER_DECLINED,
        Reason.LISTENER_CANNOT_DIAL,
    }
)

#: Outcomes of a rendezvous whose place was needed for another one.
_DISPLACED = frozenset({"displaced", "displaced by another hybrid connection"})


class RelayCounters:
    """Counts the events of one relay, as a subscriber. The keys of the counters are the labels of metrics."""

    def __init__(self) -> None:
        """Begin with all counters at zero."""
        self._named: set[str] = set()
        #: By hybrid connection and result: ``success``, ``client_error``, ``server_error``.
        self.listener_connections: Counter[tuple[str, str]] = Counter()
        self.sender_connections: Counter[tuple[str, str]] = Counter()
        #: By hybrid connection and reason.
        self.listener_disconnects: Counter[tuple[str, str]] = Counter()
        self.sender_disconnects: Counter[tuple[str, str]] = Counter()
        #: By result: ``joined``, or how the rendezvous ended without being joined.
        self.rendezvous: Counter[str] = Counter()
        #: By what was displaced: ``control_channels`` or ``pairs`` (also rendezvous that were not joined yet).
        self.displaced: Counter[str] = Counter()
        #: By the reason why one of several listeners was chosen.
        self.chosen: Counter[str] = Counter()

    def label(self, connection: str) -> str:
        """Return the label for a hybrid connection: its name, or `OTHER` beyond the first `MAX_CONNECTIONS`."""
        if connection in self._named:
            return connection
        if len(self._named) >= MAX_CONNECTIONS:
            return OTHER
        self._named.add(connection)
        return connection

    def __call__(self, event: Event) -> None:
        """Count an event."""
        match event:
            case ListenerRegistered(connection=name):
                self.listener_connections[self.label(name), "success"] += 1
            case ListenerRefused(connection=name, reason=reason):
                self.listener_connections[self._known(name), _result(reason)] += 1
            case ListenerLeft(connection=name, reason=reason):
                self.listener_disconnects[self._known(name), reason.slug] += 1
            case ListenerChosen(why=why):
                self.chosen[why] += 1
            case SenderRefused(connection=name, reason=reason):
                self.sender_connections[self._known(name), _result(reason)] += 1
            case RendezvousJoined(connection=name):
                self.sender_connections[self.label(name), "success"] += 1
                self.rendezvous["joined"] += 1
            case RendezvousTakenOver(connection=name):
                self.label(name)
            case RendezvousEnded(connection=name, reason=reason, outcome=outcome, seconds=seconds):
                if seconds > 0:
                    self.sender_disconnects[self._known(name), reason.slug] += 1
                else:
                    self.rendezvous[outcome.replace(" ", "_")] += 1
                self.displaced["pairs"] += outcome in _DISPLACED
            case TokenInvalid(connection=name, right=right) | TokenRefused(connection=name, right=right):
                counter = self.listener_connections if right == "listen" else self.sender_connections
                counter[self._known(name), "client_error"] += 1
            case ControlChannelDisplaced():
                self.displaced["control_channels"] += 1
            case ConnectionDeleted(connection=name):
                self._forget(name)

    def _known(self, connection: str) -> str:
        """Like `label`, but do not assign a new label, because the hybrid connection may not exist (any more)."""
        return connection if connection in self._named else OTHER

    def _forget(self, connection: str) -> None:
        self._named.discard(connection)
        for counter in (
            self.listener_connections,
            self.sender_connections,
            self.listener_disconnects,
            self.sender_disconnects,
        ):
            for key in [key for key in counter if key[0] == connection]:
                del counter[key]


def _result(reason: Reason) -> str:
    return "server_error" if reason in _SERVER_ERRORS else "client_error"
