"""The registrations of all hybrid connections of a connector: whether it has started, and whether it has to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

import trio

from ..connectivity.refusals import all_failed
from ..errors import HybridRelayError
from ..events.connector import RefusedEverywhere, RegistrationMissing, RegistrationPending
from ..events.stream import EventStream
from .published import Published

__all__ = ["START_SECONDS", "AllRegistrations"]

#: How long a connector that serves at least one hybrid connection waits at its start for the others: they may be
#: disabled, or their relays may not be reachable (seconds).
START_SECONDS = 30.0


class AllRegistrations:
    """Knows when the hybrid connections are registered or refused, so that the connector has started, or has to end.

    Args:
        published: the hybrid connections by number, as they are at any time.
        check_refusals: asks again the relays that have refused.
        events: the stream to which events are published.
        last_look: see `Connector`.
    """

    def __init__(
        self,
        published: Mapping[int, Published],
        check_refusals: Callable[[], None],
        events: EventStream,
        *,
        last_look: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._published = published
        self._check_refusals = check_refusals
        self._events = events
        self._last_look = last_look
        #: Set once every hybrid connection that the policy allows is registered at one relay or more, or refused by
        #: all; not if all of them are refused. After `START_SECONDS`, it is enough that one of them is registered.
        self._settled = trio.Event()
        self._waits_for_all = True
        #: Set once every relay refuses every hybrid connection that the policy allows, so that the connector ends,
        #: unless the last look finds something else.
        self._over = trio.Event()

    def changed(self) -> None:
        """Note that a hybrid connection was registered, refused or lost at one of the relays."""
        # What the policy denies is not requested. The connector waits until the policy allows it.
        everything = self._allowed()
        if self._all_are_refused():
            now = trio.current_time()
            states = [one.state for published in everything for one in published.publications]
            outdated = [state for state in states if state.may_be_outdated(now)]
            if not outdated:
                self._over.set()
            elif all(state.asks_again_in(now) for state in outdated):  # unless a relay is already being asked again
                self._check_refusals()
        elif all(published.is_registered or published.is_refused for published in everything) or (
            not self._waits_for_all and any(published.is_registered for published in everything)
        ):
            self._settled.set()

    async def wait_settled(self) -> None:
        """Wait until the connector has started: every hybrid connection that the policy allows is registered or
        refused, or at least one is registered and `START_SECONDS` have passed."""
        with trio.move_on_after(START_SECONDS):
            await self._settled.wait()
            return
        self._waits_for_all = False
        self.changed()
        await self._settled.wait()

    async def raise_when_refused(self) -> None:
        """Wait until every relay refuses every connection string whose hybrid connection the policy allows.

        Raises:
            HybridRelayError: always; it says why.
        """
        while True:
            await self._over.wait()
            async with self._last_look():
                if self._all_are_refused():
                    raise _why_refused(self._allowed()[0])
                self._over = trio.Event()

    def _allowed(self) -> list[Published]:
        return [one for one in self._published.values() if one.denial is None]

    def _all_are_refused(self) -> bool:
        allowed = self._allowed()
        return bool(allowed) and all(published.is_refused for published in allowed)

    def publish_missing(self) -> None:
        """Publish an event for each relay at which a hybrid connection is not registered when the connector starts:
        only one if all its relays refuse it, and none if the policy denies it."""
        for published in self._published.values():
            name = published.name
            if published.denial is not None:
                continue  # an event has reported it
            if published.is_refused:
                error = _why_refused(published)
                self._events.publish(RefusedEverywhere(connection=name, reason=error.reason, detail=str(error)))
                continue
            for one in published.publications:
                if one.state.is_registered:
                    continue
                host, failure = one.link.host, one.state.failure
                if failure is None:
                    self._events.publish(RegistrationPending(connection=name, host=host))
                else:
                    self._events.publish(
                        RegistrationMissing(connection=name, host=host, reason=failure.reason, detail=str(failure))
                    )


def _why_refused(published: Published) -> HybridRelayError:
    return all_failed(
        {one.link.host: one.state.failure for one in published.publications if one.state.failure is not None}
    )
