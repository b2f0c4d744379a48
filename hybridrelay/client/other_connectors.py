"""Finding another connector for new streams, when that of the current session cannot connect to the target.

A client uses one session for all its streams, and the relay chooses a connector only for a new session. So without
this, all streams would be refused as long as the session lives, although another connector reaches the target. The
rules:

1. When the connector has refused a stream because it could not connect to the target, the relays are asked for a
   connector other than this one, and other than those that have refused streams of this client in the same way within
   the last `EXCLUDED_SECONDS`.
2. If there is one that accepts a session, this session takes the place of the current one for new streams. The
   streams of the earlier session continue there, and the stream that was refused is opened again.
3. If there is none, the current session is kept, and streams that are refused cause no other search for a while,
   which grows up to `MAX_RETRY_SECONDS`. So as long as the only connector does not reach the target, the relay gets a
   join from time to time, which it refuses at once.
4. There is one search at a time. Every stream that is refused in the meantime waits for it, for up to `WAIT_SECONDS`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection

import trio

from .._unexpected_failure import unexpected_failure
from ..errors import HybridRelayError
from ..events.client import ConnectorReplaced
from ..events.stream import EventStream
from ..mux import DatagramFlow, MuxStream
from ..protocol.reasons import NOT_CONNECTED, Reason
from .opening import SessionOpener
from .relays.listeners import AvoidedListeners
from .session import ClientSession

__all__ = ["EXCLUDED_SECONDS", "MAX_RETRY_SECONDS", "RETRY_SECONDS", "WAIT_SECONDS", "OtherConnectors"]

#: How long a connector that could not connect to the target is excluded from searches (seconds). Longer than it takes
#: to try the others. Short, because its target may be back, while those of the others have failed.
EXCLUDED_SECONDS = 30.0
#: The pause after the first search without a result, and the longest one (seconds).
RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 60.0
#: How long a stream that was refused waits for another connector (seconds). A join, a data channel and a handshake
#: take less, unless a relay has to be dialed first.
WAIT_SECONDS = 5.0


class OtherConnectors:
    """Finds other connectors for one client.

    Args:
        opener: has the session for new streams.
        nursery: runs the searches.
        open_session: opens a session with a connector other than these instances.
        connection: returns the name of the hybrid connection, for events.
        events: the stream to which events are published.
    """

    def __init__(
        self,
        opener: SessionOpener,
        nursery: trio.Nursery,
        open_session: Callable[[Collection[str]], Awaitable[ClientSession]],
        *,
        connection: Callable[[], str],
        events: EventStream,
    ) -> None:
        self._opener = opener
        self._nursery = nursery
        self._open_session = open_session
        self._connection = connection
        self._events = events
        #: The connectors that could not connect to the target.
        self._failed = AvoidedListeners(seconds=EXCLUDED_SECONDS)
        #: Set at the end of the search in progress; None if there is none.
        self._search: trio.Event | None = None
        #: When the next search may begin, on Trio's clock.
        self._not_before = -math.inf
        self._pause = RETRY_SECONDS

    def refused(self, stream: MuxStream | DatagramFlow, reason: Reason) -> None:
        """Note that a stream was refused, and begin a search if that may help future streams."""
        current = self._opener.open
        if reason not in NOT_CONNECTED or current is None or current.session.session_id != stream.session_id:
            return
        if self._search is None and trio.current_time() >= self._not_before:
            self._search = trio.Event()
            self._nursery.start_soon(self._find, current, reason, self._search)

    async def find(self, stream: MuxStream | DatagramFlow, reason: Reason) -> bool:
        """Return whether another session than that of a refused stream may accept the stream; wait for a search.

        If cancelled, the search continues.
        """
        await trio.lowlevel.checkpoint()
        if reason not in NOT_CONNECTED:
            return False
        self.refused(stream, reason)
        if self._search is not None:
            with trio.move_on_after(WAIT_SECONDS):
                await self._search.wait()
        current = self._opener.open
        return current is not None and current.session.session_id != stream.session_id

    async def _find(self, current: ClientSession, reason: Reason, over: trio.Event) -> None:
        instance = current.channel.peer.instance
        self._failed.add(instance, trio.current_time())
        try:
            opened = await self._open_session(self._failed.at(trio.current_time()))
            self._opener.replace(opened)
            self._pause = RETRY_SECONDS
            successor = opened.channel.peer.instance
            self._events.publish(
                ConnectorReplaced(
                    connection=self._connection(), instance=instance, successor=successor, reason=reason
                )
            )
        except HybridRelayError:  # there is no other one
            self._wait()
        except Exception as exc:  # noqa: BLE001
            # A bug, here or in the caller's dialer. It is logged, and must not end the client.
            self._events.publish(unexpected_failure("search for another connector", exc, self._connection()))
            self._wait()
        finally:
            self._search = None
            over.set()

    def _wait(self) -> None:
        """Begin no other search for a while."""
        now = trio.current_time()
        if now - self._not_before > MAX_RETRY_SECONDS:  # the last search without a result was long ago
            self._pause = RETRY_SECONDS
        self._not_before = now + self._pause
        self._pause = min(2 * self._pause, MAX_RETRY_SECONDS)
