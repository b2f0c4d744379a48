"""Finding an acceptable listener: several are tried in parallel, because one may be silent.

Anyone with a Listen key can register, accept all offers, and then never open a data channel, or stall in the
handshake. It takes time to distinguish such a listener from one that is far away. A search therefore does not wait
for one listener alone:

1. When a listener has not proved its identity after `NEXT_LISTENER_SECONDS`, the relay is asked for a second one, and
   for further ones every `FURTHER_LISTENER_SECONDS`. The first that proves an acceptable identity is used, and the
   others are cancelled. When `MAX_AT_A_TIME` are being tried, the one that has stalled longest is cancelled for the
   next one, once it has stalled for `STALLED_SECONDS`.
2. A listener that fails is replaced by another one at once. If the relay was asked to avoid it, or if very many have
   failed within a minute (`AvoidedListeners.pause`), there is a pause first: a relay must not be able to keep its
   clients busy.
3. Listeners that failed, or had stalled when another one was found, are avoided by later searches.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from ..._nursery import FlatNursery
from ...errors import HybridRelayError, PeerIdentityError, RendezvousError
from ...protocol.control import MAX_AVOID
from ...protocol.reasons import Reason
from .listeners import ListenerSearch

#: If a listener has not proved its identity after this time (seconds), another one is tried in parallel. A handshake
#: over a slow path takes about a second; an unnecessary request costs a rendezvous that is abandoned.
NEXT_LISTENER_SECONDS = 2.0
#: After that, one more listener is tried at this interval (seconds).
FURTHER_LISTENER_SECONDS = 0.5
#: How many listeners are tried at the same time.
MAX_AT_A_TIME = 8
#: If a listener has not proved its identity after this time (seconds), it is cancelled when its place is needed for
#: another one, and later searches avoid it if another one is found. A handshake takes less time even over the slowest
#: paths.
STALLED_SECONDS = 4.0


class Answer(Protocol):
    """A relay's answer to a join."""

    @property
    def listener(self) -> str:
        """The instance that has accepted the join."""


AnswerT = TypeVar("AnswerT", bound=Answer)
ChannelT = TypeVar("ChannelT")


@attrs.frozen(eq=False)
class _Trial:
    """A listener that is being tried."""

    #: When the attempt began, on Trio's clock.
    since: float
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


@attrs.define(eq=False)
class Search(Generic[AnswerT, ChannelT]):
    """One search at one relay. `run` may be called once."""

    #: Which listeners were tried so far, and which are avoided.
    search: ListenerSearch
    #: Asks the relay for a listener other than these instances, at most `MAX_AVOID` of them.
    ask: Callable[[tuple[str, ...]], Awaitable[AnswerT]]
    #: Opens the data channel to the listener of this answer.
    open_channel: Callable[[AnswerT], Awaitable[ChannelT]]
    #: Closes a channel that is not needed after all, without waiting for the peer.
    discard: Callable[[ChannelT], Awaitable[None]]
    #: Called with each listener that failed and its error, if another one will be tried.
    on_failure: Callable[[str, HybridRelayError], None]
    #: Instances that are being tried; the one that has been tried longest is first.
    _trying: dict[str, _Trial] = attrs.field(factory=dict, init=False)
    #: How many requests for a listener the relay has not answered yet.
    _asking: int = attrs.field(default=0, init=False)
    #: When to ask for the next listener (on Trio's clock).
    _next_at: float = attrs.field(default=-math.inf, init=False)
    #: Set whenever a request was answered or an attempt has ended.
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _found: list[ChannelT] = attrs.field(factory=list, init=False)
    _error: HybridRelayError | None = attrs.field(default=None, init=False)

    async def run(self) -> ChannelT:
        """Open a channel to any acceptable listener.

        Raises:
            HybridRelayError: the last listener failed, or the relay could not be asked for one.

        If cancelled, no channel stays open.
        """
        try:
            async with FlatNursery() as nursery:
                while not self._found and self._error is None:
                    now = trio.current_time()
                    at = max(self._next_at, self._room_at())
                    if now >= at:
                        self._make_room(now)
                        self._next_at = now + (FURTHER_LISTENER_SECONDS if self._busy else NEXT_LISTENER_SECONDS)
                        self._asking += 1
                        nursery.start_soon(self._attempt)
                        continue
                    self._changed = trio.Event()
                    with trio.move_on_at(at):
                        await self._changed.wait()
                nursery.cancel_scope.cancel()
        except BaseException:
            for channel in self._found:
                await self.discard(channel)
            raise
        if not self._found:
            assert self._error is not None
            raise self._error
        for channel in self._found[1:]:  # two attempts may have succeeded at the same moment
            await self.discard(channel)
        self._note_stalled(trio.current_time())
        return self._found[0]

    @property
    def _busy(self) -> int:
        return self._asking + len(self._trying)

    def _room_at(self) -> float:
        """Return the earliest time at which there is a place to try another listener (on Trio's clock)."""
        if self._busy < MAX_AT_A_TIME:
            return -math.inf
        return min((trial.since + STALLED_SECONDS for trial in self._trying.values()), default=math.inf)

    def _make_room(self, now: float) -> None:
        """Cancel the listener that has stalled longest, if all places are taken."""
        if self._busy >= MAX_AT_A_TIME:
            instance, trial = next(iter(self._trying.items()))
            del self._trying[instance]
            self.search.stalled(instance, now)
            trial.scope.cancel()

    async def _attempt(self) -> None:
        """Ask for one listener and try it. `run` has already counted the request in `_asking`."""
        now = trio.current_time()
        avoid = (*self.search.avoid(now), *self._trying)[-MAX_AVOID:]
        try:
            answer = await self.ask(avoid)
        except RendezvousError as exc:
            self._none_to_try(exc)
            return
        except HybridRelayError as exc:
            self._error = exc
            return
        finally:
            self._asking -= 1
            self._changed.set()
        instance = answer.listener
        if instance in self.search.other_than:  # the relay ignores the list of instances to avoid
            self._error = RendezvousError("there is no other connector", reason=Reason.NO_LISTENER)
            return
        if instance in self._trying:  # the relay ignores the list of instances to avoid
            self._next_at = now + NEXT_LISTENER_SECONDS
            return
        trial = self._trying[instance] = _Trial(now)
        try:
            with trial.scope:
                self._found.append(await self.open_channel(answer))
        except (PeerIdentityError, RendezvousError) as exc:
            self._listener_failed(instance, exc, was_to_be_avoided=instance in avoid)
        except HybridRelayError as exc:
            self._error = exc
        finally:
            if self._trying.get(instance) is trial:  # otherwise it was cancelled for another one
                del self._trying[instance]
            self._changed.set()

    def _none_to_try(self, error: RendezvousError) -> None:
        now = trio.current_time()
        if self._busy > 1:
            # Those that are being tried may still succeed, and another one may register in the meantime.
            self._next_at = now + NEXT_LISTENER_SECONDS
        elif error.reason is Reason.NO_LISTENER:
            self._next_at = now
            self._error = self.search.none_left(error, now)
        else:
            self._error = error

    def _listener_failed(
        self, instance: str, error: PeerIdentityError | RendezvousError, *, was_to_be_avoided: bool
    ) -> None:
        now = trio.current_time()
        if not self.search.failed(instance, error, now):
            self._error = error
            return
        pause = NEXT_LISTENER_SECONDS if was_to_be_avoided else self.search.pause(now)
        self._next_at = now + pause
        self.on_failure(instance, error)

    def _note_stalled(self, now: float) -> None:
        for instance, trial in self._trying.items():
            if now - trial.since >= STALLED_SECONDS:
                self.search.stalled(instance, now)
