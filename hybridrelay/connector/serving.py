"""One stream of an application: policy, target, bytes, and exactly one outcome."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import time
from collections.abc import Callable

import attrs
import trio

from ..events import (
    EventStream,
    InternalError,
    ShareUsedUp,
    StreamClosed,
    StreamNotConnected,
    StreamOpened,
    StreamStillOpen,
    TargetOutOfResources,
)
from ..mux import BridgeProgress, Offer, bridge
from ..protocol.reasons import Reason
from ..security import PeerIdentity
from .outcome import NotConnected, StreamOutcome, outcome_of
from .policy import Action, Policy, Resource
from .published import Published
from .shares import Shares
from .targets import TargetError, open_target

__all__ = ["REPEAT_SECONDS", "Origin", "ServedStream", "StreamService"]

#: After how long an open stream is reported again (seconds).
REPEAT_SECONDS = 24 * 3600.0
#: How often streams of that age are looked for (seconds).
_CHECK_SECONDS = 600.0


@attrs.frozen
class Origin:
    """Where a stream comes from."""

    published: Published
    peer: PeerIdentity
    #: Tells the sessions of this process apart in the audit log.
    session: int
    #: The current route of the session's data channel: ``tcp at relay.example.com``.
    route: str


class StreamService:
    """Serves the streams of all sessions of a connector.

    Args:
        policy: gives the policy that is in force now.
        shares: how many connections to targets each application may have.
        events: gets the events.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        policy: Callable[[], Policy],
        shares: Shares,
        events: EventStream,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.shares = shares
        self.clock = clock
        self.events = events
        #: The ids of all streams begin with this: unique among the runs of connectors.
        self.run = f"{secrets.token_hex(4)}-"
        self._numbers = itertools.count(1)
        self._open: set[ServedStream] = set()

    async def serve(self, offer: Offer, origin: Origin) -> None:
        """Serve a stream that an application asks for, to its end. Nothing that happens to it affects another one."""
        served = ServedStream(self, offer, origin, f"{self.run}{next(self._numbers)}")
        self._open.add(served)
        try:
            await served.run()
        finally:
            self._open.discard(served)

    async def keep_reporting(self) -> None:
        """Publish an event each day for each stream that is open, until cancelled."""
        while True:
            await trio.sleep(_CHECK_SECONDS)
            self.report_open()

    def report_open(self) -> None:
        """Publish an event for each stream that nothing was reported about for `REPEAT_SECONDS`."""
        for served in sorted(self._open, key=lambda one: one.began):
            served.report_open()


class ServedStream:
    """One stream, from the application's request to its one outcome."""

    def __init__(self, service: StreamService, offer: Offer, origin: Origin, activity_id: str) -> None:
        self.began = service.clock()
        self._reported = self.began
        self._service = service
        self._offer = offer
        self._origin = origin
        self._id = activity_id
        self._target = origin.published.target  # a reload may change it at any moment
        #: How far it has come; None while the target is not connected.
        self._progress: BridgeProgress | None = None

    async def run(self) -> None:
        """Serve it to its end. Publishes one event at the beginning and exactly one at the end."""
        offer, origin = self._offer, self._origin
        self._publish_opened()
        # Whatever is not caught below is a cancellation. GOING_AWAY means that the stream was not processed, and that
        # another session may open it.
        outcome: StreamOutcome = NotConnected(Reason.GOING_AWAY)
        try:
            outcome = await self._serve()
        except Exception as exc:  # noqa: BLE001
            # A bug of ours. It must not end the connector for all others, and it has to be logged.
            name = origin.published.name
            self._service.events.publish(InternalError(where="stream", connection=name, exception=exc))
            outcome = NotConnected(Reason.INTERNAL_ERROR)
        finally:
            if self._progress is not None:
                outcome = outcome_of(self._progress.so_far())
            elif isinstance(outcome, NotConnected):
                offer.refuse(outcome.reason, outcome.told)  # does nothing if the application has given it up
            self._publish_outcome(outcome)

    async def _serve(self) -> StreamOutcome:
        peer, published = self._origin.peer, self._origin.published
        decision = self._service.policy().decide(peer, Action.OPEN_STREAM, Resource(published.name, self._target))
        if decision.reason is not None:
            return NotConnected(decision.reason)
        owner = (published, peer.serial)
        shares = self._service.shares
        with contextlib.ExitStack() as taken:
            for share in (shares.descriptors, shares.ports(self._target)):
                if not share.take(owner):
                    why = share.why_refused(owner)
                    self._service.events.publish(
                        ShareUsedUp(
                            connection=published.name,
                            label=peer.label,
                            serial=peer.serial,
                            detail=why,
                            remedy=share.remedy,
                        )
                    )
                    return NotConnected(Reason.LIMIT, why, why)
                taken.callback(share.give_back, owner)
            target = await self._connect()
            return target if isinstance(target, NotConnected) else await self._join(target)

    async def _connect(self) -> trio.SocketStream | NotConnected:
        """Connect to the target. The attempt ends when the application gives up, because nobody waits for it."""
        try:
            with trio.CancelScope() as scope:
                self._offer.cancel_when_withdrawn(scope)
                return await open_target(self._target)
        except TargetError as exc:
            if exc.remedy is not None:
                name, target = self._origin.published.name, str(self._target)
                self._service.events.publish(
                    TargetOutOfResources(connection=name, target=target, detail=str(exc), remedy=exc.remedy)
                )
            return NotConnected(exc.reason, str(exc.__cause__ or exc), str(exc))
        return NotConnected(Reason.CANCELLED)

    async def _join(self, target: trio.SocketStream) -> StreamOutcome:
        self._progress = BridgeProgress()
        return outcome_of(await bridge(self._offer.accept(), target, progress=self._progress))

    # --- events

    def _publish_opened(self) -> None:
        origin = self._origin
        self._service.events.publish(
            StreamOpened(
                connection=origin.published.name,
                activity_id=self._id,
                label=origin.peer.label,
                serial=origin.peer.serial,
                target=str(self._target),
                session=origin.session,
                stream=self._offer.stream_id,
                route=origin.route,
            )
        )

    def _publish_outcome(self, outcome: StreamOutcome) -> None:
        name, peer = self._origin.published.name, self._origin.peer
        event: StreamNotConnected | StreamClosed
        if isinstance(outcome, NotConnected):
            event = StreamNotConnected(
                connection=name,
                activity_id=self._id,
                label=peer.label,
                serial=peer.serial,
                target=str(self._target),
                reason=outcome.reason,
                detail=outcome.detail,
                seconds=self._seconds,
            )
        else:
            event = StreamClosed(
                connection=name,
                activity_id=self._id,
                label=peer.label,
                serial=peer.serial,
                target=str(self._target),
                outcome=outcome.kind,
                reason=outcome.reason,
                to_target=str(outcome.to_target),
                to_client=str(outcome.to_client),
                bytes_to_target=outcome.bytes_to_target,
                bytes_to_client=outcome.bytes_to_client,
                seconds=self._seconds,
            )
        self._service.events.publish(event)

    def report_open(self) -> None:
        """Publish that it is open, if it is and nothing was reported for long."""
        now = self._service.clock()
        if self._progress is None or now - self._reported < REPEAT_SECONDS:
            return
        self._reported = now
        so_far = self._progress.so_far()
        self._service.events.publish(
            StreamStillOpen(
                connection=self._origin.published.name,
                activity_id=self._id,
                label=self._origin.peer.label,
                serial=self._origin.peer.serial,
                target=str(self._target),
                bytes_to_target=so_far.received,
                bytes_to_client=so_far.sent,
                seconds=self._seconds,
            )
        )

    @property
    def _seconds(self) -> float:
        return round(self._service.clock() - self.began, 3)
