"""The channels of a session, one after another: each is served until it is lost, then the next one is waited for."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from ..errors import HybridRelayError
from ..protocol import SessionCore, events
from ..protocol.frames import Hello
from ..protocol.reasons import Reason
from ..streams.reactor import Reactor
from ..streams.turns import SharedTurns
from ._channel import Channel
from .greeting import epoch_of

__all__ = ["Channels", "Reconnect"]

#: Returns another channel to the same peer; see `Session.run`.
Reconnect: TypeAlias = Callable[[], Awaitable[trio.abc.Stream]]


class Channels:
    """The channels of one session.

    Args:
        core: the session's state machine.
        dispatch: called with the core's events.
        turns: shared by all sessions with the same peer.
    """

    def __init__(
        self, core: SessionCore, dispatch: Callable[[list[events.SessionEvent]], None], turns: SharedTurns
    ) -> None:
        self._core = core
        self._dispatch = dispatch
        self._turns = turns
        #: The channel in use; None if there is none.
        self.current: Channel | None = None
        #: The channel to use next, and the bytes that were already received from it.
        self._next: tuple[trio.abc.Stream, bytes] | None = None
        #: The highest epoch of the channels that were passed to `replace`. The core knows only the epochs of channels
        #: that were used.
        self._epoch_given = -1
        #: The scope in which `_wait_for_next` waits. It is cancelled when there is another channel, or the session
        #: has ended.
        self._waiting = trio.CancelScope()
        #: The first exception with which a channel was lost before the peer had greeted; see `take_first_error`.
        self._first_error: BaseException | None = None

    def begin(self, channel: trio.abc.Stream, initial: bytes) -> None:
        """Use this channel first. `initial`: bytes that were already received from it."""
        self._next = (channel, initial)

    async def use(self, reactor: Reactor, reconnect: Reconnect | None, greeting_timeout: float) -> None:
        """Use one channel after another until the session ends.

        Args:
            reactor: serves the channels.
            reconnect: see `Reconnect`; None means that only the peer opens further channels.
            greeting_timeout: how long the peer may take to send HELLO over a channel (seconds).
        """
        try:
            while self._next is not None and self._core.ended is None:
                await self._use_next(reactor, greeting_timeout)
                if self._core.ended is None:
                    await self._wait_for_next(reconnect)
        finally:
            self.current = None

    async def _use_next(self, reactor: Reactor, greeting_timeout: float) -> None:
        """Use the next channel, which is there, until it is lost. Nothing refers to it after this, so that its memory
        is free while the session waits for another one."""
        assert self._next is not None
        (stream, initial), self._next = self._next, None
        taken_over = self._core.is_established
        if not taken_over:
            self._core.channel_opened(trio.current_time())
        channel = self.current = Channel(self._core, stream, initial, self._dispatch, self._turns, reactor)
        if taken_over:
            self._dispatch([events.Established(resumed=False)])
        error = await channel.serve(greeting_timeout)
        if self._first_error is None and self._core.peer_hello is None:
            self._first_error = error
        self.current = None

    def take_first_error(self) -> BaseException | None:
        """Return the first exception with which a channel was lost before the peer had greeted, and forget it,
        because it refers to that channel."""
        error, self._first_error = self._first_error, None
        return error

    async def _wait_for_next(self, reconnect: Reconnect | None) -> None:
        """Wait for the next channel, or end the session: at its resume deadline, or if `reconnect` raises."""
        deadline = self._core.next_deadline()
        if self._next is None:
            with trio.CancelScope(deadline=math.inf if deadline is None else deadline) as self._waiting:
                try:
                    if reconnect is None:
                        await trio.sleep_forever()
                    else:
                        await self._use_reconnected(await reconnect())
                except HybridRelayError as exc:
                    changed = exc.reason is Reason.IDENTITY_CHANGED
                    reason = exc.reason if changed else Reason.SESSION_LOST
                    self._dispatch(self._core.close(reason, f"the session cannot be resumed: {exc}"))
        if self._next is None:
            self._dispatch(self._core.handle_timeout(trio.current_time()))

    async def _use_reconnected(self, reconnected: trio.abc.Stream) -> None:
        if self._next is None:
            self._next = (reconnected, b"")
        else:  # `replace` was called at the same moment
            await trio.aclose_forcefully(reconnected)

    async def replace(self, channel: trio.abc.Stream, initial: bytes) -> None:
        """See `Session.replace_channel`."""
        if self._core.ended is not None:
            await trio.aclose_forcefully(channel)
            return
        superseded, self._next = self._next, (channel, initial)
        self._epoch_given = max(self._epoch_given, epoch_of(initial))
        if self.current is not None:
            self.current.lose("moved to another channel")
        else:
            self._waiting.cancel()
        if superseded is not None:
            await trio.aclose_forcefully(superseded[0])

    def attach_refusal(self, hello: Hello) -> Reason | None:
        """See `Session.attach_refusal`."""
        refusal = self._core.attach_refusal(hello)
        if refusal is None and hello.epoch <= self._epoch_given:
            return Reason.SUPERSEDED
        return refusal

    def session_ended(self, reason: Reason) -> None:
        """Note that the session has ended, so that no further channel is waited for."""
        self._waiting.cancel()
        if self.current is not None:
            self.current.ended(reason)

    async def aclose(self) -> None:
        """Close the channel that was to be used next, if there is one."""
        left_over, self._next = self._next, None
        if left_over is not None:
            await trio.aclose_forcefully(left_over[0])
