"""What a connector or client does with the new key that a relay gives it while a key is rolled.

The rules:

1. A key for another hybrid connection or rule than that of the connection string is ignored.
2. If the connection string names several relays, the new key is used only when all others accept it, too. So a relay
   that an attacker controls cannot give a program a key that other relays refuse.
3. The changed connection string is first stored (`KeepString`), then the relay is answered, then the key is used,
   and shown to the other relays.
4. The relay repeats the key until the answer is *kept*, so nothing is tried again here.
5. If several messages of a relay wait, only the latest is handled, and there are pauses between the messages of a
   relay, even if they contain the key that is in use. So a relay that an attacker controls can neither fill the
   memory, nor make the program write, register and ask other relays without end.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeAlias

import attrs
import trio

from .._value import Value
from ..errors import HybridRelayError, RelayUnreachable
from ..events.endpoint import NewKeyReceived
from ..events.stream import EventStream
from ..protocol import control
from ..protocol.control import KeptState
from ..security import ConnectionString, Secret, key_fingerprint
from ..security.rules import check_key
from .control import ControlChannel
from .link import make_connection_token
from .refusals import failure_error

__all__ = ["ANSWER_SECONDS", "NO_FILE", "KeepString", "NewKeys", "OtherRelay", "check_token"]

#: Stores a connection string whose key a relay has changed, where the program reads it when it starts. The first
#: argument is the connection string with the earlier key. Returns an empty text, or why it could not be stored. Must
#: not raise.
KeepString: TypeAlias = Callable[[ConnectionString, ConnectionString], Awaitable[str]]
#: Why a connection string is not stored if there is no `KeepString`.
NO_FILE = "this program has no file in which to store the connection string"

#: How long an answer to a relay may take to be sent (seconds). One that reads nothing must not delay others.
ANSWER_SECONDS = 10.0
#: The shortest time between two messages of one relay that are handled (seconds).
KEY_SECONDS = 5.0


class OtherRelay(Protocol):
    """Another relay of the connection string."""

    @property
    def host(self) -> str:
        """Its host name."""

    async def check_accepted(self, string: ConnectionString) -> None:
        """Check whether it accepts the key of this connection string.

        Raises:
            HybridRelayError: it does not, or cannot be reached.
        """


async def check_token(channel: ControlChannel, string: ConnectionString, host: str, now: float) -> None:
    """Ask a relay over a control channel whether it accepts the key of a connection string.

    Raises:
        HybridRelayError: it does not, or does not answer.
    """
    token = make_connection_token(string, host, now)
    answer = await channel.check(string.entity_path, token)
    if isinstance(answer, control.Failed):
        raise failure_error(string.entity_path, answer)


@attrs.frozen
class _Given(Value):
    """A message that waits to be handled; see `NewKeys.received` for the fields."""

    channel: ControlChannel
    message: control.Key
    others: Sequence[OtherRelay]


class NewKeys:
    """Handles the new keys for one hybrid connection.

    Args:
        string: returns the connection string that is in use.
        use: uses a connection string from now on. It is also called with the current one, which relays that refused
            it may accept now.
        keep: stores a connection string; None means that a new key is only in memory.
        events: the stream to which events are published.
        changing: held while a changed connection string is stored and used. Updates hold the same lock, so that
            neither stores or uses a string without the change that the other makes at the same time.
    """

    def __init__(
        self,
        string: Callable[[], ConnectionString],
        use: Callable[[ConnectionString], object],
        keep: KeepString | None,
        events: EventStream,
        *,
        changing: trio.Lock,
    ) -> None:
        self._string = string
        self._use = use
        self._keep = keep
        self._events = events
        self._changing = changing
        self._lock = trio.Lock()
        #: The key that was stored last, and the connection string before a key that could not be stored.
        self._stored: Secret | None = None
        self._unstored: ConnectionString | None = None
        #: The latest message of each relay that waits to be handled, by the relay's host name.
        self._waiting: dict[str, _Given] = {}
        #: When the next message of a relay may be handled, on Trio's clock.
        self._next_at: dict[str, float] = {}

    async def received(
        self, channel: ControlChannel, host: str, message: control.Key, others: Sequence[OtherRelay]
    ) -> None:
        """Handle a message that has arrived over a control channel of the relay `host`. Messages that do not fit
        (another rule, an invalid key) are ignored. If an earlier message of this relay still waits, this one takes
        its place, and this returns at once.

        Args:
            channel: the control channel, over which the answer is sent.
            host: the relay.
            message: the new key.
            others: the other relays of the connection string.

        If cancelled, the key may be stored and not used yet; the next start uses it.
        """
        is_waiting = host in self._waiting
        self._waiting[host] = _Given(channel, message, others)
        if is_waiting:
            return  # the task that waits already handles it
        try:
            await trio.sleep_until(self._next_at.get(host, -math.inf))
            await self._lock.acquire()
        finally:
            given = self._waiting.pop(host)
        try:
            self._next_at[host] = trio.current_time() + KEY_SECONDS
            await self._handle(given.channel, host, given.message, given.others)
        finally:
            self._lock.release()

    async def _handle(
        self, channel: ControlChannel, host: str, message: control.Key, others: Sequence[OtherRelay]
    ) -> None:
        current = self._string()
        try:
            key = check_key(Secret(message.key))
        except ValueError:
            return
        if (message.connection, message.rule) != (current.entity_path, current.key_name):
            return
        is_new = key != current.key
        if is_new and (why := await _refusal(attrs.evolve(current, key=key), others)):
            await _answer(channel, message, KeptState.WAITING, why)
            return
        async with self._changing:
            # Everything but the key may have changed while the others were asked, or while the string is stored.
            current = self._string()
            why = await self._store(current, attrs.evolve(current, key=key))
            await _answer(channel, message, KeptState.MEMORY if why else KeptState.KEPT, why)
            if is_new:
                self._events.publish(
                    NewKeyReceived(
                        connection=current.entity_path, host=host, key=key_fingerprint(key), kept=not why, detail=why
                    )
                )
            wanted = attrs.evolve(self._string(), key=key)
            self._use(wanted)
        if is_new:
            # Otherwise a relay that this program does not use now would not learn that it has the key, because the
            # control channel over which it was asked before has been replaced.
            for other in others:
                with suppress(HybridRelayError):
                    await other.check_accepted(wanted)

    async def _store(self, before: ConnectionString, wanted: ConnectionString) -> str:
        """Store a connection string, unless that was done. Returns an empty text, or why it could not be stored."""
        if self._stored == wanted.key:
            return ""
        if before.key != wanted.key:
            self._unstored = before
        if self._unstored is None:
            return ""  # it was read with this key
        if self._keep is None:
            return NO_FILE
        why = await self._keep(self._unstored, wanted)
        if not why:
            self._stored, self._unstored = wanted.key, None
        return why


async def _refusal(string: ConnectionString, others: Sequence[OtherRelay]) -> str:
    """Return why a relay does not accept the key yet; empty if all do."""
    for other in others:
        try:
            await other.check_accepted(string)
        except HybridRelayError as exc:
            return f"{other.host}: {exc}"
    return ""


async def _answer(channel: ControlChannel, message: control.Key, state: KeptState, detail: str) -> None:
    # If it cannot be sent, the relay asks again over the next control channel.
    with trio.move_on_after(ANSWER_SECONDS), suppress(RelayUnreachable):
        await channel.send(control.KeyKept(message.connection, message.generation, state, detail))
