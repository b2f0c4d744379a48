"""The connector at one relay: its control channel there, over which everything is kept registered.

There is one (the *current* one), except while the connector moves to a better route. Then it opens a successor before
it closes the current one. The successor registers everything; the relay sees its higher generation, moves one
registration after the other, and ends the earlier channel with the last. So there is a listener at every moment. The
rules:

1. Every control channel is served until it ends, whether it is the current one or not: offers come over all of them.
2. Only one registers at a time. The current one renews, and an earlier one what could not be taken over.
3. A channel that ends, and a registration that is taken from it, are a loss only where none has taken their place.
4. A successor that fails changes nothing. Should it have taken something already, the current channel cannot get that
   back, since the relay lets no lower generation in: it ends, and another is opened as after any loss.
5. The current channel takes earlier ones along when it ends: nobody would renew what is registered over them.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from functools import partial

import attrs
import trio

from .._log_limit import LimitedLogger
from .._nursery import FlatNursery
from ..connectivity.backoff import Backoff
from ..connectivity.control import ControlChannel
from ..connectivity.discovery import Candidate
from ..connectivity.instance import OwnInstance
from ..connectivity.link import RelayLink
from ..connectivity.refusals import failure_error, is_hopeless
from ..connectivity.repeated_failure import RepeatedFailure
from ..errors import HybridRelayError, RelayUnreachable
from ..protocol import control
from ..protocol.reasons import Reason
from .channels import MAX_UNPROVEN_CHANNELS, DataChannels
from .published import Published, Registration
from .registrations import Registrations

logger = LimitedLogger("hybridrelay.connector")

#: The longest wait between two tries to come back while there are sessions, which may be waiting for it (seconds).
_RESUME_BACKOFF = 2.0
#: A registration that the relay ends is registered again at once, unless that happened less than this ago (seconds);
#: then the wait grows. Otherwise a relay that registers and ends could keep this process busy.
_LOOK_AGAIN_HELD = 60.0
#: The shortest time between two renewals, whatever the relay says of their expiry (seconds).
_MIN_RENEWAL_SECONDS = 1.0
#: `Ended` and `Draining` messages that one control channel may bring in a minute, apart from one for each
#: registration. A relay that sends more is misbehaving: the channel is closed, and the next one waits its turn.
MAX_NOTICES = 60
_NOTICE_SECONDS = 60.0


@attrs.define(eq=False)
class _Line:
    """One control channel, as long as it is open."""

    channel: ControlChannel
    #: Set where what is registered has to be looked at before its time.
    stale: trio.Event = attrs.field(factory=trio.Event)
    #: When to come back, where the relay said so (seconds). Only the first `Draining` counts, so that repeating it
    #: extends nothing.
    retry_after: float | None = None
    #: The relay says nothing more over it.
    over: trio.Event = attrs.field(factory=trio.Event)
    #: For what was refused and may be accepted soon.
    backoff: Backoff = attrs.field(factory=partial(Backoff, first_seconds=2.0, max_seconds=30.0))
    #: How many notices came since when; see `MAX_NOTICES`.
    notices: int = 0
    notices_since: float = -math.inf

    def admit_notice(self, now: float, limit: int) -> bool:
        """Count an unsolicited message; False where there were too many within a minute."""
        if now - self.notices_since >= _NOTICE_SECONDS:
            self.notices, self.notices_since = 0, now
        self.notices += 1
        return self.notices <= limit


class Registrar:
    """Keeps what is published registered at one relay, for ever; nothing that happens here reaches another relay.

    Args:
        link: the relay.
        channels: serve what comes of it.
        replaces: earlier instances of this connector that are dead.
        clock: seconds since 1970.
        changed: called when a registration has come or gone.
        renewed: called with the instance as which this connector registers from now on at this relay, because another
            process has used the one before.
    """

    def __init__(
        self,
        link: RelayLink,
        channels: DataChannels,
        *,
        replaces: tuple[OwnInstance, ...],
        clock: Callable[[], float],
        changed: Callable[[], None],
        renewed: Callable[[OwnInstance], None] = lambda _: None,
    ) -> None:
        self.link = link
        self._renewed = renewed
        self._registrations = Registrations(link, replaces=replaces, clock=clock)
        self._channels = channels
        self._changed = changed
        #: The control channels that are open, the earliest first.
        self._lines: list[_Line] = []
        #: The one over which is renewed; None before there is one, and after its end.
        self._current: _Line | None = None
        #: In which they run, while there is one.
        self._serving: trio.Nursery | None = None
        #: In which a successor is opened.
        self._opening = trio.CancelScope()
        #: Held while registering.
        self._registering = trio.Lock()
        #: Something was registered here once.
        self._worked = False
        #: A better route was found while there was no control channel: sessions follow to the next one.
        self._climbed = False
        #: Since when there has been a control channel over which something may be registered, or None.
        self._registered_at: float | None = None
        #: See `_Line`: of the last.
        self._retry_after = 0.0
        self._stopping = False
        #: Set where a relay is to be asked before its time.
        self._in_doubt = trio.Event()
        #: The relay could be reached the last time, and would not have us.
        self._answered = False
        self._failure = RepeatedFailure()
        #: The level at which the last failure was logged.
        self._level = logging.WARNING

    def publish(self, published: Published) -> None:
        """Before `run`: register this as well."""
        self._registrations.add(published)

    def find(self, name: str) -> Registration | None:
        """The registration of this hybrid connection here, or None."""
        return self._registrations.find(name)

    async def unpublish(self, registration: Registration) -> None:
        """Stop registering this; with the last one, it is like `stop`. Its sessions continue."""
        over = registration.over
        self._registrations.remove(registration)
        if not self._registrations:
            self.stop()
        elif over is not None:
            with contextlib.suppress(RelayUnreachable):
                await over.send(control.Unregister(over.next_id(), registration.published.name))

    @property
    def is_stopping(self) -> bool:
        """Nothing is registered here any more."""
        return self._stopping

    def renew(self) -> None:
        """What is published was changed: register it again now, what was refused included."""
        self._registrations.renew()
        self._look_again()
        self._in_doubt.set()

    def stop(self) -> None:
        """Close the control channel, all of them, and open no other: the relay offers nothing more to us."""
        self._stopping = True
        self._in_doubt.set()
        for line in self._lines:
            line.channel.close()

    def jumped(self) -> None:
        """The machine slept, or changed networks."""
        self.link.forget(network_changed=True)
        self._opening.cancel()
        self.doubt()

    def doubt(self) -> None:
        """A data channel was lost, and clients come back over a control channel that works: ask whether it does."""
        for line in self._lines:
            line.channel.check_alive()

    def doubt_refusals(self) -> None:
        """Ask the relay again about what it refused a while ago: nothing else is left."""
        if self._registrations.doubt():
            logger.info("asking %s again, because no other relay accepts this connector", self.link.host)
            self._look_again()
            self._in_doubt.set()

    # --- the control channel

    async def run(self, channels: trio.Nursery) -> None:
        """Keep a control channel for ever, or until `stop`; data channels run in `channels`.

        A relay that refuses everything for good is left alone for a long while.
        """
        async with FlatNursery() as nursery:
            nursery.start_soon(self.link.climb, self._in_use, partial(self._move_up, channels))
            backoff = Backoff()
            while not self._stopping:
                began = trio.current_time()
                at_once = await self._serve_or_tell(channels)
                self._in_doubt = trio.Event()
                self._changed()
                if not at_once:
                    now, took = trio.current_time(), 0.0
                    if self._registered_at is None:
                        took = now - began
                    else:
                        backoff.succeeded(held_seconds=now - self._registered_at)
                    with trio.move_on_after(self._next_wait(backoff, took)):
                        await self._in_doubt.wait()
            nursery.cancel_scope.cancel()

    def _next_wait(self, backoff: Backoff, took: float) -> float:
        host = self.link.host
        if self._registrations.are_hopeless:
            # It may have been asked again, and have been out of reach: the back-off counts as well.
            wait = backoff.next_wait(at_least=self._registrations.asks_again_in)
            logger.error(
                "nothing can be registered at %s; if another relay keeps this connector running, it is asked again "
                "in %.0f s, or at once after SIGHUP",
                host,
                wait,
            )
            return wait
        # Where the relay is out of reach, sessions that look healthy count too: the loss of a data channel may be
        # detected later than that of this channel.
        urgent = any(not (self._answered and served.session.is_open) for served in self._channels.of(self.link))
        wait = backoff.next_wait(
            at_least=self._retry_after, at_most=_RESUME_BACKOFF if urgent else None, took_seconds=took
        )
        logger.log(min(self._level, logging.INFO), "trying %s again in %.1f s", host, wait)
        return wait

    async def _serve_or_tell(self, channels: trio.Nursery) -> bool:
        """Serve while there is a control channel, and log why there is none. Returns whether we ended it."""
        self._retry_after = 0.0
        self._registered_at = None
        self._answered = False
        try:
            await self._serve_control(channels)
        except HybridRelayError as exc:
            if self._stopping:
                return True
            # Only before anything has worked is this certainly the operator's mistake. Later, somebody on the way may
            # pose as the relay for a while.
            final = not self._worked and is_hopeless(exc)
            self._registrations.failed(exc, final=final)
            text = self._failure.describe(exc)
            self._level = self._failure.level(trio.current_time())
            logger.log(logging.ERROR if final else self._level, "%s", text)
            self._answered = not isinstance(exc, RelayUnreachable)
            self.link.forget()
            return False
        if self._stopping:
            return True
        self._level = logging.WARNING
        if not self._registrations.are_refused:
            logger.warning("the control channel to %s was lost", self.link.host)
            if not self._retry_after:
                # What was good may be what broke: a probe is cheap, and a dial into a black hole is not.
                self.link.forget()
        return False

    async def _serve_control(self, channels: trio.Nursery) -> None:
        """Open a control channel, and serve it and those that take its place, until none is left.

        Raises:
            HybridRelayError: the first could not be opened, or nothing could be registered now.
        """
        async with FlatNursery() as nursery:
            self._serving = nursery
            await nursery.start(self._serve_line, channels, None)

    async def _serve_line(
        self,
        channels: trio.Nursery,
        candidate: Candidate | None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """One control channel, until it is lost or of no more use; started when it has become the current one.

        Args:
            channels: in which data channels run.
            candidate: the route; None means the one that would be chosen now.

        Raises:
            HybridRelayError: before it started: it could not be opened, or nothing could be registered now.
        """
        async with FlatNursery() as nursery:
            channel = await self.link.start_control(nursery, candidate)
            line = _Line(channel)
            self._lines.append(line)
            try:
                if self._stopping:  # `stop` was called while it was being opened
                    channel.close()
                nursery.start_soon(self._serve_messages, line, channels)
                wait = await self._take_over(line)
                nursery.start_soon(self._keep_registered, line, wait)
                task_status.started()
                if self._climbed:
                    self._climbed = False
                    nursery.start_soon(self._channels.move, self.link, channel.candidate)
                await line.over.wait()
                nursery.cancel_scope.cancel()
            finally:
                self._ended(line)

    def _ended(self, line: _Line) -> None:
        earlier = self._lines[: self._lines.index(line)]
        self._lines.remove(line)
        if not self._lines:
            self._retry_after = line.retry_after or 0.0
            self._opening.cancel()  # it may hang for as long as its deadlines allow
        self._registrations.lost(line.channel)
        if self._current is line:
            self._current = None
            for one in earlier:
                one.channel.close()

    # --- climbing

    def _in_use(self) -> Candidate | None:
        candidates = [served.candidate for served in self._channels.of(self.link) if served.session.is_open]
        if self._current is not None:
            candidates.append(self._current.channel.candidate)
        return max(candidates, key=lambda candidate: candidate.route.rank, default=None)

    async def _move_up(self, channels: trio.Nursery, candidate: Candidate) -> None:
        """Have everything on a better route: first the control channel, then the sessions.

        Raises:
            HybridRelayError: registering over it failed; the current channel continues as before.
        """
        logger.info("%s works now at %s, moving to this better route", candidate.route.name, self.link.host)
        if self._current is None:
            self._climbed = True
            return
        if self._current.channel.candidate.route.rank > candidate.route.rank:
            assert self._serving is not None
            with trio.CancelScope() as self._opening:
                await self._serving.start(self._serve_line, channels, candidate)
            if self._opening.cancelled_caught:
                raise RelayUnreachable(f"{candidate.route.name} was given up", reason=Reason.CANCELLED)
        await self._channels.move(self.link, candidate)

    # --- registrations

    async def _take_over(self, line: _Line) -> float:
        """Register everything over a new control channel, which is then the current one; for how many seconds.

        Raises:
            HybridRelayError: the channel was lost, or nothing could be registered now.
        """
        async with self._registering:
            try:
                wait, failed = await self._register(line)
                names = self._registrations.over(line.channel)
                if failed is not None and not names:
                    raise failed
            except HybridRelayError:
                # It may have taken something away.
                self._look_again()
                raise
            self._current = line
        if self._registered_at is None:
            self._registered_at = trio.current_time()
        self._failure.succeeded()
        if names:
            self._worked = True
            route = line.channel.candidate.route.name
            logger.info("listening for %s at %s over %s", ", ".join(names), self.link.host, route)
        self._let_go()
        return wait

    async def _keep_registered(self, line: _Line, wait: float) -> None:
        """Register again before it expires, and what was refused as soon as that may have changed.

        Where another channel is the current one, only what could not be taken over by that. This one is closed where
        nothing can be registered over it.
        """
        again = Backoff(held_seconds=_LOOK_AGAIN_HELD)
        looked_at = -math.inf
        try:
            while True:
                with trio.move_on_after(max(_MIN_RENEWAL_SECONDS, wait)):
                    await line.stale.wait()
                if line.stale.is_set():
                    held = trio.current_time() - looked_at
                    again.succeeded(held_seconds=held)
                    if held < _LOOK_AGAIN_HELD:
                        await trio.sleep(again.next_wait())
                    looked_at = trio.current_time()
                async with self._registering:
                    if self._current is not line and not self._registrations.over(line.channel):
                        return
                    wait, _ = await self._register(line, only_renew=self._current is not line)
                self._let_go()
        except HybridRelayError as exc:
            logger.info("at %s: %s", self.link.host, exc)
            line.channel.close()

    async def _register(self, line: _Line, *, only_renew: bool = False) -> tuple[float, HybridRelayError | None]:
        """See `Registrations.register`; the wait is the one before a retry."""
        line.stale = trio.Event()
        try:
            wait, failed = await self._registrations.register(line.channel, only_renew=only_renew)
        except HybridRelayError as exc:
            if exc.reason is Reason.SUPERSEDED and (instance := self.link.renew_instance(line.channel)) is not None:
                logger.warning(
                    "another process has registered at %s as this connector's instance; continuing as a new one: %s",
                    self.link.host,
                    instance.id,
                )
                self._renewed(instance)
            raise
        self._changed()
        if self._registrations.are_hopeless:
            line.channel.close()  # nothing is left to be done over it
        return wait if failed is None else min(wait, line.backoff.next_wait()), failed

    def _look_again(self) -> None:
        """Have everything registered again, soon."""
        for line in self._lines:
            line.stale.set()

    def _let_go(self) -> None:
        """Close the channels before the current one over which nothing is registered any more.

        So does the relay: what it has offered over them and was not answered, it offers again over the current one.
        """
        for line in self._lines:
            if line is self._current:
                return
            if not self._registrations.over(line.channel):
                line.channel.close()

    # --- what the relay says

    async def _serve_messages(self, line: _Line, channels: trio.Nursery) -> None:
        """Answer the relay until the channel ends, or nothing is left to be done over it."""
        channel = line.channel
        try:
            async for message in channel.messages:
                match message:
                    case control.Offer():
                        await self._answer(channel, message, channels)
                    case control.Registered(id=id_):
                        self._registrations.confirmed(channel, id_)
                    case _ if not line.admit_notice(trio.current_time(), MAX_NOTICES + len(self._registrations)):
                        logger.warning("%s sends too many messages, closing the control channel", self.link.host)
                        channel.close()
                        return
                    case control.Ended(connection=name, reason=reason):
                        self._registration_ended(line, name, reason)
                        if self._registrations.are_hopeless:
                            return
                    case control.Draining(retry_after_seconds=seconds) if line.retry_after is None:
                        logger.info("the relay at %s is about to restart", self.link.host)
                        line.retry_after = float(seconds)
                    case _:
                        pass
        except RelayUnreachable:
            pass  # an offer that we could not answer
        finally:
            line.over.set()

    async def _answer(self, channel: ControlChannel, offer: control.Offer, channels: trio.Nursery) -> None:
        registration = self._registrations.find(offer.connection)
        if registration is None or registration.is_refused:
            await channel.send(control.Failed(offer.id, Reason.UNKNOWN_CONNECTION))
        elif (newcomer := registration.unproven.admit(offer.sender, MAX_UNPROVEN_CHANNELS)) is None:
            await channel.send(control.Failed(offer.id, Reason.LIMIT))
        else:
            channels.start_soon(self._channels.serve, registration, channel, offer, newcomer, registration.key)
            await channel.send(control.Accept(offer.id))

    def _registration_ended(self, line: _Line, name: str, reason: Reason) -> None:
        registration = self._registrations.find(name)
        is_latest = self._lines[-1:] == [line]
        if registration is None or registration.over is not line.channel:
            if is_latest:  # an answer that came just before has not been seen yet
                self._look_again()
            return  # else it was taken over by the channel that is to replace this one, as it should
        if reason is Reason.SUPERSEDED and not is_latest:
            return  # it is just being taken over; where that fails, everything is looked at again
        self._registrations.refused(registration, failure_error(name, control.Failed(0, reason)))
        self._changed()
        self._look_again()
