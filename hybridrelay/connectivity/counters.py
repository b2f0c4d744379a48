"""Counts the events that connectors and clients have in common, for metrics. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs

from .._histogram import Histogram
from .._value import Value
from ..events.base import Event
from ..events.endpoint import SessionRefused, SessionResumed
from ..protocol.datagrams import Dropped
from ..protocol.reasons import Reason

__all__ = ["CAUSES", "CONNECT_BUCKETS", "SUCCESS", "CountedDatagrams", "EndpointCounters"]

#: The result if something has succeeded.
SUCCESS = "success"
#: Upper bounds of the histogram of connecting to targets (seconds). The last one is the deadline.
CONNECT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: Why datagrams are dropped: the fields of `Dropped`.
CAUSES = tuple(attrs.fields_dict(Dropped))


@attrs.frozen
class CountedDatagrams(Value):
    """What a flow, or a local port for datagrams, has passed on and dropped so far."""

    to_target: int
    to_client: int
    dropped: Dropped


class EndpointCounters:
    """Counts the events that connectors and clients have in common, as a subscriber. Streams are counted by calls of
    `stream_opened`.

    `ConnectorCounters` and `ClientCounters` also count the events of their side.
    """

    def __init__(self) -> None:
        """Begin with all counters at zero."""
        #: By hybrid connection and result: `SUCCESS`, or the slug of a reason.
        self.streams_opened: Counter[tuple[str, str]] = Counter()
        #: How long successful connections to the target took (seconds).
        self.target_connect = Histogram(CONNECT_BUCKETS)
        #: By result: `SUCCESS`, or the slug of a reason.
        self.session_resumes: Counter[str] = Counter()
        #: Datagrams that were passed on (by direction: ``to_target``, ``to_client``), and that were dropped here (by
        #: cause: `CAUSES`). Those of a flow or local port are added when it ends; a copy also has those of open ones.
        self.datagrams: Counter[str] = Counter()
        self.datagrams_dropped: Counter[str] = Counter()
        #: By the open flow or local port: returns what it has counted.
        self._open: dict[object, Callable[[], CountedDatagrams]] = {}
        #: By the kind of the rule, never by the identity that the rule denies.
        self.policy_refusals: Counter[str] = Counter()

    def stream_opened(self, connection: str, reason: Reason = Reason.NO_ERROR) -> None:
        """Count a stream that was opened, or with a `reason`, one that was not."""
        self.streams_opened[connection, SUCCESS if reason is Reason.NO_ERROR else reason.slug] += 1

    def datagrams_began(self, owner: object, counted: Callable[[], CountedDatagrams]) -> None:
        """Count the datagrams of a flow or of a local port from now on.

        Args:
            owner: the flow or port.
            counted: returns what it has counted so far. It must not raise.
        """
        self._open[owner] = counted

    def datagrams_ended(self, owner: object) -> None:
        """Count the datagrams of a flow or port for the last time. Idempotent."""
        counted = self._open.pop(owner, None)
        if counted is not None:
            self._count(counted())

    def _count(self, counted: CountedDatagrams) -> None:
        self.datagrams["to_target"] += counted.to_target
        self.datagrams["to_client"] += counted.to_client
        for cause in CAUSES:
            self.datagrams_dropped[cause] += getattr(counted.dropped, cause)

    def __call__(self, event: Event) -> None:
        """Count an event."""
        match event:
            case SessionResumed():
                self.session_resumes[SUCCESS] += 1
            case SessionRefused(reason=reason, resumes=True):
                self.session_resumes[reason.slug] += 1

    def copy(self) -> EndpointCounters:
        """Return the current counts."""
        copied = EndpointCounters()
        copied.add(self)
        for counted in self._open.values():
            copied._count(counted())
        return copied

    def add(self, other: EndpointCounters) -> None:
        """Add the values of another one."""
        self.streams_opened.update(other.streams_opened)
        self.session_resumes.update(other.session_resumes)
        self.policy_refusals.update(other.policy_refusals)
        self.datagrams.update(other.datagrams)
        self.datagrams_dropped.update(other.datagrams_dropped)
        self.target_connect.add(other.target_connect)
