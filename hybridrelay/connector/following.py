"""Replacing everything that depends on an earlier key of a connector, and reporting when nothing does any more."""

from __future__ import annotations

import trio

from ..events.endpoint import KeyInUse
from ..events.stream import EventStream
from ..security import key_fingerprint
from .published import Published
from .sessions import Sessions

__all__ = ["KeyFollower"]

#: How often to check whether something still depends on an earlier key (seconds).
_FOLLOW_SECONDS = 1.0


class KeyFollower:
    """Follows changes of keys.

    Args:
        events: the stream to which events are published.
    """

    def __init__(self, events: EventStream) -> None:
        self._events = events
        #: Set and replaced by a new event whenever something may have begun or ceased to depend on a key.
        self._use = trio.Event()
        #: The scope of the task that runs `follow`, for each hybrid connection.
        self._following: dict[Published, trio.CancelScope] = {}

    def use_changed(self) -> None:
        """Note that something may have begun or ceased to depend on a key."""
        change, self._use = self._use, trio.Event()
        change.set()

    async def follow(self, published: Published, sessions: Sessions) -> None:
        """Replace everything that depends on an earlier key, then publish that nothing does any more (`KeyInUse`). If
        the key changes again, a second call takes the place of the first one.

        Args:
            published: the hybrid connection, whose key has changed.
            sessions: the sessions of the connector.
        """
        self.forget(published)
        with trio.CancelScope() as self._following[published]:
            while True:
                change = self._use  # also notices changes that occur while sessions move
                if published.uses_current_key and await sessions.follow_key(published):
                    break
                with trio.move_on_after(_FOLLOW_SECONDS):
                    await change.wait()
            missing = tuple(one.link.host for one in published.publications if not one.state.is_registered)
            key = key_fingerprint(published.string.key)
            self._events.publish(KeyInUse(connection=published.name, key=key, missing=missing))

    def forget(self, published: Published) -> None:
        """End `follow` for a hybrid connection, if it runs."""
        if published in self._following:
            self._following.pop(published).cancel()
