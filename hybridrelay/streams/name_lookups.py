"""Looking up the addresses of names, so that a name service that does not answer delays only those who need it.

The system's resolver blocks a thread until the name service has answered, often for half a minute, and cannot be
interrupted. A caller that gives up therefore leaves its thread behind. Trio has a limited number of threads for this:
if each caller used one, a few seconds of connection attempts to a single dead name would take them all, and no other
name could be looked up.

Rules:

1. Callers that want the same name, port and kind of socket share one lookup. Another one begins only if the last one
   has not been answered for `AGAIN_SECONDS`, because the name service may work again while the earlier one still
   waits, and only while fewer than `MAX_OF_NAME` run. All of these callers get the first answer.
2. For one purpose, there are at most `MAX_LOOKUPS` at the same time, so that the targets of a connector cannot keep
   it from looking up its relays.
3. At most `MAX_OF_ZONE` of these are for names in one zone.
4. A caller for whom there is no room waits, and sets its own deadline.
"""

from __future__ import annotations

import enum
import math
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import attrs
import trio

from .._threads import thread_errors
from .._value import Value

__all__ = [
    "AGAIN_SECONDS",
    "MAX_LOOKUPS",
    "MAX_OF_NAME",
    "MAX_OF_ZONE",
    "AddressInfo",
    "NameLookups",
    "Purpose",
    "lookups_for",
]

#: An element of the result of `socket.getaddrinfo`: family, type, protocol, canonical name, socket address.
AddressInfo: TypeAlias = tuple[int, int, int, str, Any]

#: How many lookups for one purpose run at the same time. For all purposes together, there are fewer than the 40
#: threads that Trio has by default.
MAX_LOOKUPS: Final = 16
#: How many of them are for names in one zone, and for one name with the same port and kind of socket.
MAX_OF_ZONE: Final = 12
MAX_OF_NAME: Final = 3
#: A name is looked up once more if the last lookup has not been answered for this time (seconds). It is longer than
#: what one lost query costs (the option `timeout` in resolv.conf(5) is 5 s by default).
AGAIN_SECONDS: Final = 6.0


class Purpose(enum.Enum):
    """What a name is looked up for. Each purpose has lookups of its own."""

    #: A relay, a proxy, or the address of a management API or status.
    RELAY = "relay"
    #: The target of a connector.
    TARGET = "target"


@attrs.frozen
class _Query(Value):
    host: str
    port: int
    kind: socket.SocketKind


@attrs.define(eq=False)
class _Answer:
    """The next answer to a query, for which callers wait."""

    found: Sequence[AddressInfo] = ()
    error: Exception | None = None
    is_there: bool = False


@attrs.define(eq=False)
class _Name:
    """A name, with a port and a kind of socket, that is being looked up, or waits for room."""

    answer: _Answer = attrs.field(factory=_Answer)
    #: How many lookups run, and when the last one began (on Trio's clock).
    running: int = 0
    began: float = -math.inf
    #: How many callers wait.
    callers: int = 0


class NameLookups:
    """Looks up names for one purpose; see the module's docstring."""

    def __init__(self) -> None:
        self._names: dict[_Query, _Name] = {}
        self._zones: Counter[str] = Counter()
        self._running = 0
        #: Set, and then replaced, whenever a lookup has ended.
        self._ended = trio.Event()

    @property
    def running(self) -> int:
        """How many lookups run."""
        return self._running

    async def find(self, host: str, port: int, kind: socket.SocketKind) -> Sequence[AddressInfo]:
        """Return the addresses of a name, as `trio.socket.getaddrinfo` does.

        The caller sets the deadline. A lookup that is running goes on if the caller is cancelled.

        Raises:
            OSError: what the lookup raises; `OutOfThreads` if no thread can be started.
            ValueError: the name is not valid in DNS.
        """
        query = _Query(host, port, kind)
        name = self._names.setdefault(query, _Name())
        name.callers += 1
        try:
            answer = name.answer
            while not answer.is_there:
                if self._may_begin(query, name):
                    self._begin(query, name)
                again = name.began + AGAIN_SECONDS if name.running < MAX_OF_NAME else math.inf
                # After that moment, only an end of another lookup makes room.
                with trio.move_on_at(again if again > trio.current_time() else math.inf):
                    await self._ended.wait()
        finally:
            name.callers -= 1
            self._clean(query, name)
        if answer.error is not None:
            raise answer.error.with_traceback(None)  # otherwise it would grow with each caller
        return answer.found

    def _may_begin(self, query: _Query, name: _Name) -> bool:
        if name.running and (name.running >= MAX_OF_NAME or trio.current_time() < name.began + AGAIN_SECONDS):
            return False
        return self._running < MAX_LOOKUPS and self._zones[_zone(query.host)] < MAX_OF_ZONE

    def _begin(self, query: _Query, name: _Name) -> None:
        name.began = trio.current_time()
        name.running += 1
        self._running += 1
        self._zones[_zone(query.host)] += 1
        # Not a task of the caller: the thread goes on if the caller is cancelled, and counts until it ends.
        trio.lowlevel.spawn_system_task(self._look_up, query, name, name="hybridrelay name lookup")

    async def _look_up(self, query: _Query, name: _Name) -> None:
        found: Sequence[AddressInfo] = ()
        error: Exception | None = None
        try:
            with thread_errors():
                found = await trio.socket.getaddrinfo(query.host, query.port, type=query.kind)
        except Exception as exc:  # noqa: BLE001  each caller raises it
            error = exc
        finally:
            name.running -= 1
            self._running -= 1
            self._zones[_zone(query.host)] -= 1
            self._zones += Counter()  # removes those without a lookup
            answer, name.answer = name.answer, _Answer()
            answer.found, answer.error, answer.is_there = found, error, True
            self._clean(query, name)
            self._ended.set()
            self._ended = trio.Event()

    def _clean(self, query: _Query, name: _Name) -> None:
        if not name.callers and not name.running:
            self._names.pop(query, None)


def _zone(host: str) -> str:
    """Return the domain whose name servers are probably asked for a host. Names without a domain are in one zone."""
    return ".".join(host.rstrip(".").casefold().split(".")[-2:]) if "." in host.rstrip(".") else ""


#: The lookups of a Trio run.
_LOOKUPS: trio.lowlevel.RunVar[dict[Purpose, NameLookups]] = trio.lowlevel.RunVar("hybridrelay name lookups")


def lookups_for(purpose: Purpose) -> NameLookups:
    """Return the lookups for a purpose in this Trio run."""
    try:
        found = _LOOKUPS.get()
    except LookupError:
        found = {one: NameLookups() for one in Purpose}
        _LOOKUPS.set(found)
    return found[purpose]
