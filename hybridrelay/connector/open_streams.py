"""The streams of a connector that have not ended: how many there are, and whether the policy still allows them."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import attrs

from ..policy import Action, Decision, Policy
from ..security import StreamTarget
from .stream_events import Origin

__all__ = ["OpenStream", "OpenStreams"]


class OpenStream(Protocol):
    """A stream, or a flow of datagrams."""

    @property
    def action(self) -> Action:
        """What the policy decides about."""

    @property
    def origin(self) -> Origin:
        """Where the stream comes from."""

    @property
    def dialed(self) -> StreamTarget:
        """What is dialed for it."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The IP addresses of the target that may be dialed, or the one that is connected."""

    def deny(self, denial: Decision) -> None:
        """End the stream, because the policy no longer allows it."""


StreamT = TypeVar("StreamT", bound=OpenStream)


class OpenStreams(Generic[StreamT]):
    """The streams of all sessions that have not ended.

    Args:
        policy: returns the policy that is in force now.
        local_time: returns the local time of the machine.
    """

    def __init__(self, policy: Callable[[], Policy], local_time: Callable[[], dt.datetime]) -> None:
        self._policy = policy
        self._local_time = local_time
        #: In the order in which they began.
        self._open: dict[StreamT, None] = {}
        #: How many of them each label has, and how many flows each session has, by its id in events.
        self._of_label: Counter[str] = Counter()
        self._flows: Counter[str] = Counter()

    def __iter__(self) -> Iterator[StreamT]:
        """Return all of them, the oldest first."""
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, stream: StreamT) -> None:
        """Count a stream from now on."""
        self._open[stream] = None
        self._of_label[stream.origin.peer.label] += 1
        if _is_flow(stream):
            self._flows[stream.origin.session] += 1

    def remove(self, stream: StreamT) -> None:
        """Note that a stream has ended."""
        del self._open[stream]
        _count_down(self._of_label, stream.origin.peer.label)
        if _is_flow(stream):
            _count_down(self._flows, stream.origin.session)

    def flows_of(self, session: str) -> int:
        """Return how many flows of datagrams a session has; `session` is its id in events."""
        return self._flows[session]

    def decide(self, stream: StreamT, *, address: str = "", streams: int = 0, of_label: int = 0) -> Decision:
        """Return the decision of the policy about a stream.

        Args:
            stream: the stream.
            address: the IP address of the target, if it is known.
            streams, of_label: how many other streams count against the limits: in all, and of the same label.
        """
        policy, origin = self._policy(), stream.origin
        resource = attrs.evolve(
            origin.published.resource(stream.dialed),
            address=address,
            streams=streams,
            streams_of_label=of_label,
            at=self._local_time() if policy.depends_on_time else None,
        )
        return policy.decide(origin.peer, stream.action, resource)

    def decide_new(self, stream: StreamT) -> Decision:
        """Return the decision of the policy about a stream that was just added, before its target's name is
        resolved."""
        others = len(self._open) - 1, self._of_label[stream.origin.peer.label] - 1
        return self.decide(stream, streams=others[0], of_label=others[1])

    def enforce(self) -> None:
        """End the streams that the policy no longer allows. The oldest ones count first against its limits."""
        count, of_label = 0, Counter[str]()
        for stream in list(self._open):
            label = stream.origin.peer.label
            decisions = (
                self.decide(stream, address=address, streams=count, of_label=of_label[label])
                for address in stream.addresses or ("",)
            )
            denial = next((one for one in decisions if one.reason is not None), None)
            if denial is not None:
                stream.deny(denial)
            else:
                count += 1
                of_label[label] += 1


def _is_flow(stream: OpenStream) -> bool:
    return stream.action is Action.OPEN_DATAGRAMS


def _count_down(counter: Counter[str], key: str) -> None:
    """Subtract one, and remove a count of zero."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
