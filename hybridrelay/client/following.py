"""A connection string that changes while the client runs: sessions follow, and an event says when all have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from ..connectivity.backoff import Backoff
from ..events import EventStream, KeyInUse
from ..security import ConnectionString, Secret, key_fingerprint
from .lifecycle.inputs import MoveCause
from .relays.senders import Senders
from .session import ClientSession
from .sessions import Sessions

__all__ = ["Follower"]

#: The longest wait before another attempt to move a session that depends on an earlier connection string (seconds).
_FOLLOW_MAX_SECONDS = 30.0
#: The same where a relay refuses the new key: it costs a data channel each time, and an operator has to do something.
_REFUSED_SECONDS = 600.0


class Follower:
    """Moves sessions that depend on an earlier connection string.

    Args:
        string: the present one.
        senders: the client's relays.
        sessions: those that move.
        events: where events go.
    """

    def __init__(self, string: ConnectionString, senders: Senders, sessions: Sessions, events: EventStream) -> None:
        self._string = string
        self._senders = senders
        self._sessions = sessions
        self._events = events
        #: Set when the connection string has changed, and not everything may have followed.
        self._updated = trio.Event()
        #: Whether an event is to say so once nothing uses an earlier key.
        self._reports_key = False
        #: Attempts to open a session that are under way, by the key that they began with.
        self._attempts: Counter[Secret] = Counter()

    def use(self, string: ConnectionString, *, key_changed: bool) -> None:
        """Have everything follow to this connection string from now on."""
        self._string = string
        self._reports_key = self._reports_key or key_changed
        self._updated.set()

    @contextmanager
    def opening(self) -> Iterator[None]:
        """A session is being opened in the block, by the present connection string."""
        key = self._string.key
        self._attempts[key] += 1
        try:
            yield
        finally:
            self._attempts[key] -= 1
            self._attempts += Counter()  # removes those that are zero
            if key != self._string.key:
                self._updated.set()

    def opened(self, session: ClientSession) -> None:
        """A session was opened. The connection string may have changed meanwhile."""
        if self._is_stale(session):
            self._updated.set()

    def _is_stale(self, session: ClientSession) -> bool:
        """Whether it depends on what the connection string does not say any more."""
        return session.channel.key != self._string.key or session.channel.sender not in self._senders.all

    @property
    def _has_settled(self) -> bool:
        """Nothing depends on an earlier connection string, now or soon."""
        key = self._string.key
        return not any(map(self._is_stale, self._sessions)) and all(one == key for one in self._attempts)

    async def run(self) -> None:
        """Move what depends on an earlier connection string, until cancelled."""
        while True:
            await self._updated.wait()
            backoff = Backoff(first_seconds=1.0, max_seconds=_FOLLOW_MAX_SECONDS, min_seconds=0.1)
            while True:
                self._updated = trio.Event()
                await self._sessions.move(MoveCause.STRING_CHANGED, self._is_stale, self._senders.in_order)
                if self._has_settled:
                    break
                refused = any(sender.falls_back for sender in self._senders.all)
                with trio.move_on_after(_REFUSED_SECONDS if refused else backoff.next_wait()):
                    await self._updated.wait()
                    backoff.reset()
            if self._reports_key and not self._updated.is_set():
                self._reports_key = False
                self._report_key()

    def _report_key(self) -> None:
        missing = tuple(sender.link.host for sender in self._senders.all if not sender.has_accepted_key)
        name, key = self._string.entity_path, key_fingerprint(self._string.key)
        self._events.publish(KeyInUse(connection=name, key=key, missing=missing))
