"""Moving sessions when the connection string changes while the client runs, and reporting when all have moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from ..connectivity.backoff import Backoff
from ..events.endpoint import KeyInUse
from ..events.stream import EventStream
from ..security import ConnectionString, Secret, key_fingerprint
from .lifecycle.inputs import MoveCause
from .relays.relays import Relays
from .session import ClientSession
from .sessions import Sessions

__all__ = ["Follower"]

#: The longest wait before another attempt to move a session that depends on an earlier connection string (seconds).
_FOLLOW_MAX_SECONDS = 30.0
#: The wait if a relay refuses the new key (seconds). It is long, because each attempt costs a data channel, and only
#: an administrator can correct the key.
_REFUSED_SECONDS = 600.0


class Follower:
    """Moves sessions that depend on an earlier connection string.

    Args:
        string: the current connection string.
        relays: the client's relays.
        sessions: the client's sessions.
        events: the stream to which events are published.
    """

    def __init__(self, string: ConnectionString, relays: Relays, sessions: Sessions, events: EventStream) -> None:
        self._string = string
        self._relays = relays
        self._sessions = sessions
        self._events = events
        #: Set when something may depend on an earlier connection string.
        self._updated = trio.Event()
        #: Whether to publish an event once nothing uses an earlier key.
        self._reports_key = False
        #: How many attempts to open a session are in progress, by the key with which they began.
        self._attempts: Counter[Secret] = Counter()

    def use(self, string: ConnectionString, *, key_changed: bool) -> None:
        """Use this connection string from now on, and move all sessions to it."""
        self._string = string
        self._reports_key = self._reports_key or key_changed
        self._updated.set()

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Count an attempt to open a session with the current connection string, while the block runs."""
        key = self._string.key
        self._attempts[key] += 1
        try:
            yield
        finally:
            self._attempts[key] -= 1
            self._attempts += Counter()  # removes keys whose count is zero
            if key != self._string.key:
                self._updated.set()

    def opened(self, session: ClientSession) -> None:
        """Note that a session was opened. The connection string may have changed while it was being opened."""
        if self._is_stale(session):
            self._updated.set()

    def _is_stale(self, session: ClientSession) -> bool:
        """Return whether the session uses a key or a relay that is no longer in the connection string."""
        return session.channel.key != self._string.key or session.channel.relay not in self._relays.all

    @property
    def _have_all_moved(self) -> bool:
        """Whether no session and no attempt in progress depends on an earlier connection string."""
        key = self._string.key
        return not any(map(self._is_stale, self._sessions)) and all(one == key for one in self._attempts)

    async def run(self) -> None:
        """Move sessions that depend on an earlier connection string, until cancelled."""
        while True:
            await self._updated.wait()
            backoff = Backoff(first_seconds=1.0, max_seconds=_FOLLOW_MAX_SECONDS, min_seconds=0.1)
            while True:
                self._updated = trio.Event()
                await self._sessions.move(MoveCause.STRING_CHANGED, self._is_stale, self._relays.in_order)
                if self._have_all_moved:
                    break
                refused = any(relay.falls_back for relay in self._relays.all)
                with trio.move_on_after(_REFUSED_SECONDS if refused else backoff.next_wait()):
                    await self._updated.wait()
                    backoff.reset()
            if self._reports_key and not self._updated.is_set():
                self._reports_key = False
                self._report_key()

    def _report_key(self) -> None:
        missing = tuple(relay.link.host for relay in self._relays.all if not relay.has_accepted_key)
        name, key = self._string.entity_path, key_fingerprint(self._string.key)
        self._events.publish(KeyInUse(connection=name, key=key, missing=missing))
