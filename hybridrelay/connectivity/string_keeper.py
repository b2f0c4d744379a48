"""Stores what a running program receives for a connection string, and knows what is only in memory.

A new key, an update or a renewed identity is used at once, even if it cannot be stored where the program reads its
connection string at its next start. Until it is, a restart would go back to the earlier one, which may be refused by
then. So this is published (`StringNotKept`), shown in the status, and tried again, until it is stored, or somebody
has put the same where the connection string comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
import trio

from ..events.endpoint import StringKept, StringNotKept
from ..events.stream import EventStream
from ..security import ConnectionString
from .new_keys import NO_FILE, KeepString
from .snapshot import UnkeptSnapshot

__all__ = ["AGAIN_SECONDS", "StringKeeper", "keep_trying"]

#: How often to try again to store something (seconds).
AGAIN_SECONDS = 60.0

_PARTS: tuple[tuple[str, Callable[[ConnectionString], object]], ...] = (
    ("key", lambda string: (string.key_name, string.key)),
    ("identity", lambda string: string.identity),
    ("update", lambda string: string.update_sequence),
)
#: What to do about something that is only in memory.
REMEDY = (
    "let the program write the file, or give it a state directory (STATE_DIRECTORY); or change the connection "
    "string where it comes from ('hybridrelay keys use' writes a new key)"
)


class StringKeeper:
    """Stores what is received for the connection string of one client, or of one hybrid connection of a connector.

    It is a `KeepString` itself.

    Args:
        string: returns the connection string that is in use.
        keep: stores a connection string; None means that it cannot be stored.
        events: the stream to which events are published.
        changing: held while something is tried again. Callers of this object hold it, too.
        origin: what the program would use after a restart, if that differs from `string`.
    """

    def __init__(
        self,
        string: Callable[[], ConnectionString],
        keep: KeepString | None,
        events: EventStream,
        *,
        changing: trio.Lock,
        origin: ConnectionString | None = None,
    ) -> None:
        self._string = string
        self._keep = keep
        self._events = events
        self._changing = changing
        #: The connection string that the program would use after a restart, if that differs from the one in use.
        self.origin = origin
        #: What is only in memory; None if nothing is.
        self.unkept: UnkeptSnapshot | None = None
        if origin is not None:
            self._note(origin, string(), "it was not stored before")

    async def __call__(self, before: ConnectionString, after: ConnectionString) -> str:
        """See `KeepString`. What could not be stored before is stored with it."""
        origin = before if self.origin is None else self.origin
        why = NO_FILE if self._keep is None else await self._keep(origin, after)
        self._note(origin, after, why)
        return why

    def given(self, string: ConnectionString) -> None:
        """Note that the source of the connection string has changed, and has this content now, which is in use. (The
        identity of a running program stays.)"""
        if self.origin is not None:
            # Whatever else differed was replaced by what the source has.
            self._note(attrs.evolve(string, identity=self.origin.identity), self._string(), self._why)

    async def try_again(self) -> None:
        """Try again to store what could not be stored, if there is anything."""
        if self.origin is not None:
            async with self._changing:
                if self.origin is not None:
                    await self(self.origin, self._string())

    @property
    def _why(self) -> str:
        return "" if self.unkept is None else self.unkept.detail

    def _note(self, origin: ConnectionString, after: ConnectionString, why: str) -> None:
        """Note the difference between what a restart would use and what is in use. `why`: why it is not stored; empty
        if it is."""
        parts = tuple(name for name, part in _PARTS if part(origin) != part(after)) if why else ()
        earlier, connection = self.unkept, after.entity_path
        if not parts:
            self.origin = self.unkept = None
            if earlier is not None:
                self._events.publish(StringKept(connection=connection, parts=earlier.parts))
            return
        self.origin, self.unkept = origin, UnkeptSnapshot(parts=parts, detail=why, remedy=REMEDY)
        if self.unkept != earlier:
            self._events.publish(StringNotKept(connection=connection, parts=parts, detail=why, remedy=REMEDY))


async def keep_trying(unkept: Callable[[], Iterable[StringKeeper]]) -> None:
    """Try again once a minute to store what could not be stored, until cancelled.

    Args:
        unkept: returns what to try, each time.
    """
    while True:
        await trio.sleep(AGAIN_SECONDS)
        for one in list(unkept()):
            await one.try_again()
