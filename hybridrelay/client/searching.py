"""Finding an acceptable listener: several are tried in parallel, because one may be silent.

Whoever has a Listen key can register, accept whatever is offered, and then never come, or stall in the handshake. It
takes time to tell such a listener from one that is far away. So a search does not wait for one listener alone:

1. When a listener has not proved its identity after `NEXT_LISTENER_SECONDS`, another is asked for beside it, up to
   `MAX_AT_A_TIME`. The first that proves an acceptable identity is used, and the others are cancelled.
2. A listener that fails is replaced by another one at once.
3. Listeners that failed, or had stalled when another one was found, are avoided by later searches.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from .._nursery import FlatNursery
from ..errors import HybridRelayError, PeerIdentityError, RendezvousError
from ..protocol.control import MAX_AVOID
from ..protocol.reasons import Reason
from .listeners import ListenerSearch

#: After this time without a proved identity another listener is tried beside the first (seconds). A handshake over a
#: slow path takes about a second; asking once too often costs a rendezvous that is given up.
NEXT_LISTENER_SECONDS = 2.0
#: Listeners that are tried at the same time.
MAX_AT_A_TIME = 8


class Answer(Protocol):
    """What a relay answers to a join."""

    @property
    def listener(self) -> str:
        """The instance that is going to come."""


AnswerT = TypeVar("AnswerT", bound=Answer)
ChannelT = TypeVar("ChannelT")


@attrs.define(eq=False)
class Find(Generic[AnswerT, ChannelT]):
    """One search at one relay. `run` it once."""

    #: What was tried so far, and what is avoided.
    search: ListenerSearch
    #: Asks the relay for a listener other than these instances, at most `MAX_AVOID`.
    ask: Callable[[tuple[str, ...]], Awaitable[AnswerT]]
    #: Goes to the rendezvous with it.
    open_channel: Callable[[AnswerT], Awaitable[ChannelT]]
    #: Closes a channel that is not needed after all, without blocking.
    discard: Callable[[ChannelT], Awaitable[None]]
    #: Told of each listener that failed while another one is going to be tried.
    on_failure: Callable[[str, HybridRelayError], None]
    #: Instances that are being tried, and since when (on Trio's clock).
    _trying: dict[str, float] = attrs.field(factory=dict, init=False)
    _running: int = attrs.field(default=0, init=False)
    #: When the next one is asked for (on Trio's clock).
    _next_at: float = attrs.field(default=-math.inf, init=False)
    #: Set whenever an attempt is over.
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _found: list[ChannelT] = attrs.field(factory=list, init=False)
    _error: HybridRelayError | None = attrs.field(default=None, init=False)

    async def run(self) -> ChannelT:
        """Open a channel to any acceptable listener.

        Raises:
            HybridRelayError: how the last listener failed, or why none could be asked for.

        Cancelled, no channel stays open.
        """
        try:
            async with FlatNursery() as nursery:
                while not self._found and self._error is None:
                    now = trio.current_time()
                    has_room = self._running < MAX_AT_A_TIME
                    if has_room and now >= self._next_at:
                        self._next_at = now + NEXT_LISTENER_SECONDS
                        self._running += 1
                        nursery.start_soon(self._attempt)
                        continue
                    self._changed = trio.Event()
                    with trio.move_on_at(self._next_at if has_room else math.inf):
                        await self._changed.wait()
                nursery.cancel_scope.cancel()
        except BaseException:
            for channel in self._found:
                await self.discard(channel)
            raise
        if not self._found:
            assert self._error is not None
            raise self._error
        for channel in self._found[1:]:  # two may have arrived at the same moment
            await self.discard(channel)
        self._note_stalled(trio.current_time())
        return self._found[0]

    async def _attempt(self) -> None:
        """Try one listener."""
        instance = None
        try:
            now = trio.current_time()
            answer = await self.ask((*self.search.avoid(now), *self._trying)[-MAX_AVOID:])
            if answer.listener in self._trying:
                return  # the relay pays no attention to what is avoided
            instance = answer.listener
            self._trying[instance] = now
            channel = await self.open_channel(answer)
            del self._trying[instance]
            self._found.append(channel)
        except (PeerIdentityError, RendezvousError) as exc:
            self._attempt_failed(instance, exc)
        except HybridRelayError as exc:
            self._error = exc
        finally:
            self._running -= 1
            self._changed.set()

    def _attempt_failed(self, instance: str | None, error: PeerIdentityError | RendezvousError) -> None:
        now = trio.current_time()
        if instance is not None:
            del self._trying[instance]
            self._next_at = now
            if self.search.failed(instance, error, now):
                self.on_failure(instance, error)
            else:
                self._error = error
        elif error.reason is not Reason.NO_LISTENER:
            self._error = error
        elif self._running == 1:  # otherwise those that are being tried may still do
            self._next_at = now
            self._error = self.search.nobody_else(error, now)

    def _note_stalled(self, now: float) -> None:
        for instance, since in self._trying.items():
            if now - since >= NEXT_LISTENER_SECONDS:
                self.search.stalled(instance, now)
