"""What the relays of a connection string send to change it while a program runs: new keys, and updates.

`new_keys.py` and `updates.py` say what is done with each of them, and `string_keeper.py` stores the result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from ..events.stream import EventStream
from ..protocol import control
from ..security import ConnectionString
from .control import ControlChannel
from .endpoint import RelayEndpoint
from .link import RelayLink
from .new_keys import KeepString, NewKeys, OtherRelay
from .snapshot import UpdateStatus
from .string_keeper import StringKeeper
from .updates import FloorOf, Updates

__all__ = ["StringChanges"]


class StringChanges:
    """Handles what relays send to change one connection string. One change is stored and used at a time, so that
    neither of two changes that arrive at the same moment undoes the other.

    Args:
        string: returns the connection string that is in use.
        use_key: uses a connection string with another key from now on; see `NewKeys`.
        use_update: uses a connection string with an update from now on; see `Updates`.
        why_not, new_link, floor: see `Updates`.
        keep: stores a connection string; None means that changes are only in memory.
        origin: see `StringKeeper`.
        clock: returns seconds since 1970.
        events: the stream to which events are published.
    """

    def __init__(
        self,
        string: Callable[[], ConnectionString],
        *,
        use_key: Callable[[ConnectionString], object],
        use_update: Callable[[ConnectionString], object],
        why_not: Callable[[ConnectionString], str],
        new_link: Callable[[RelayEndpoint], RelayLink],
        keep: KeepString | None,
        floor: FloorOf | None,
        origin: ConnectionString | None = None,
        clock: Callable[[], float],
        events: EventStream,
    ) -> None:
        changing = trio.Lock()
        #: Stores what is received, and knows what is only in memory.
        self.keeper = StringKeeper(string, keep, events, changing=changing, origin=origin)
        self._new_keys = NewKeys(string, use_key, self.keeper, events, changing=changing)
        self._updates = Updates(
            string,
            use=use_update,
            why_not=why_not,
            new_link=new_link,
            keep=self.keeper,
            floor=floor,
            clock=clock,
            events=events,
            changing=changing,
        )

    @property
    def update_status(self) -> UpdateStatus | None:
        """The last update, for status and metrics; None if there is none."""
        return self._updates.status()

    def handler(
        self,
        channel: ControlChannel,
        endpoint: RelayEndpoint,
        message: control.Key | control.Update,
        others: Sequence[OtherRelay],
    ) -> Callable[[], Awaitable[None]] | None:
        """Return the function that handles a message and answers the relay. The caller runs it in a task.

        Args:
            channel: the control channel over which the message has arrived.
            endpoint: the relay.
            message: the new key, or the update.
            others: the other relays of the connection string.

        Returns:
            None if the message is to be ignored, because too many arrive from this relay. The relay sends an update
            again if it gets no answer.
        """
        if isinstance(message, control.Key):
            return partial(self._new_keys.received, channel, endpoint.host, message, others)
        if self._updates.may_handle(endpoint.host):
            return partial(self._updates.received, channel, endpoint, message)
        return None
