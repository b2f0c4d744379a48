"""Keeping a control channel open to each relay through which a session goes, so that the relay can reach the client.

A client needs a control channel only to join, and its sessions do not depend on one. But only over a control channel
can a relay give the client the new key of a rule, or announce that it drains. When a relay was restarted, sessions
may go on without a pause, although the control channel was lost. If nothing opened another one, a client would not
learn of a key that is rolled afterwards, and would be cut off when the old key is revoked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Protocol

import trio

from ..connectivity.backoff import Backoff
from ..errors import HybridRelayError
from .relays.relay_connection import RelayConnection
from .relays.relays import Relays

__all__ = ["CHECK_SECONDS", "SPREAD_SECONDS", "ControlChannelKeeper"]

#: How often to look for lost control channels (seconds).
CHECK_SECONDS = 5.0
#: A lost control channel is replaced after a random time of up to this (seconds), because all clients of a relay that
#: was restarted have lost theirs at the same moment, and nothing urgent depends on them.
SPREAD_SECONDS = 30.0
#: After attempts that have failed: the longest first pause, the longest of all pauses, and the shortest (seconds).
_FIRST_SECONDS, _MAX_SECONDS, _MIN_SECONDS = 30.0, 300.0, 5.0


class _Session(Protocol):
    def goes_through(self, relay: RelayConnection) -> bool: ...


class ControlChannelKeeper:
    """Replaces lost control channels; see the module's docstring.

    Args:
        relays: the client's relays.
        sessions: the client's sessions that have not ended. They are iterated over again and again.
        draw: returns a random number in [0, 1).
    """

    def __init__(
        self, relays: Relays, sessions: Iterable[_Session], *, draw: Callable[[], float] = random.random
    ) -> None:
        self._relays = relays
        self._sessions = sessions
        self._draw = draw
        #: When to open a control channel to a relay that lacks one, on Trio's clock, and the pauses if this fails.
        self._missing: dict[RelayConnection, tuple[float, Backoff]] = {}

    async def run(self) -> None:
        """Replace lost control channels until cancelled."""
        while True:
            await trio.sleep(CHECK_SECONDS)
            due = self._due(trio.current_time())
            async with trio.open_nursery() as nursery:
                for relay in due:
                    nursery.start_soon(self._replace, relay)

    def _due(self, now: float) -> list[RelayConnection]:
        """Return the relays to which a control channel has to be opened now."""
        used = [one for one in self._relays.all if any(session.goes_through(one) for session in self._sessions)]
        missing = [one for one in used if not (one.has_control or one.is_away)]
        self._missing = {
            one: self._missing.get(one) or (now + SPREAD_SECONDS * self._draw(), self._backoff()) for one in missing
        }
        return [relay for relay, (at, _) in self._missing.items() if at <= now]

    def _backoff(self) -> Backoff:
        return Backoff(
            first_seconds=_FIRST_SECONDS, max_seconds=_MAX_SECONDS, min_seconds=_MIN_SECONDS, random=self._draw
        )

    async def _replace(self, relay: RelayConnection) -> None:
        _, backoff = self._missing[relay]
        try:
            await relay.ensure_control_channel()
        except HybridRelayError:
            # The sessions do not depend on it. If they are lost, the attempt to resume them reports what is wrong.
            self._missing[relay] = trio.current_time() + backoff.next_wait(), backoff
