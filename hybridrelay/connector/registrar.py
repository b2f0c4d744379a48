"""The connector at one relay: its control channel there, and what is kept registered over it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from .._nursery import FlatNursery
from ..connectivity.backoff import Backoff
from ..connectivity.control import ControlChannel
from ..connectivity.discovery import Candidate
from ..connectivity.link import RelayLink, make_connection_token
from ..connectivity.refusals import failure_error, is_hopeless
from ..errors import ConfigurationError, HybridRelayError
from ..protocol import control
from ..protocol.reasons import Reason
from .channels import DataChannels
from .published import Published, Registration

logger = logging.getLogger("hybridrelay.connector")

#: The longest wait between two tries to come back while there are sessions, which may be waiting for it (seconds).
_RESUME_BACKOFF = 2.0
#: Data channels whose other end has not proved its identity, per hybrid connection and relay. Defends memory and the
#: machine against a relay (or whoever has a Send key) that calls for channels without end; a real client needs one.
MAX_UNPROVEN_CHANNELS = 16
#: Registrations are renewed after this part of the time that the relay grants.
RENEW_AFTER = 0.7
#: The longest time that a relay grants, as far as we are concerned (seconds).
_MAX_GRANT = 3600.0


class Registrar:
    """Keeps what is published registered at one relay, for ever; nothing that happens here reaches another relay.

    Args:
        link: the relay.
        channels: serve what comes of it.
        replaces: earlier instances of this connector that are dead.
        clock: seconds since 1970.
        changed: called when a registration has come or gone.
    """

    def __init__(
        self,
        link: RelayLink,
        channels: DataChannels,
        *,
        replaces: tuple[str, ...],
        clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.link = link
        self._registrations: dict[str, Registration] = {}
        self._channels = channels
        self._replaces = replaces
        self._clock = clock
        self._changed = changed
        self._control: ControlChannel | None = None
        #: Something was registered here once.
        self._worked = False
        #: The control channel was closed in order to open it over a better route.
        self._climbed = False
        #: When to come back, where the relay said so (seconds).
        self._retry_after = 0.0
        #: Set where registrations have to be looked at before their time.
        self._stale = trio.Event()
        self._stopping = False

    def publish(self, published: Published) -> None:
        """Before `run`: register this as well."""
        registration = Registration(published, self.link)
        published.registrations.append(registration)
        self._registrations[published.name] = registration

    def stop(self) -> None:
        """Close the control channel and open no other: the relay offers nothing more to us."""
        self._stopping = True
        if self._control is not None:
            self._control.close()

    def jumped(self) -> None:
        """The machine slept, or changed networks."""
        self.link.forget(network_changed=True)
        if self._control is not None:
            self._control.doubt()

    # --- the control channel

    async def run(self, channels: trio.Nursery) -> None:
        """Keep a control channel for ever, or until `stop`; data channels run in `channels`.

        A relay that refuses everything for good is left alone for a long while.
        """
        async with FlatNursery() as nursery:
            nursery.start_soon(self.link.climb, self._in_use, self._move_up)
            backoff = Backoff()
            while not self._stopping:
                began = trio.current_time()
                at_once = await self._serve_or_tell(channels)
                self._changed()
                if not at_once:
                    backoff.succeeded(held_seconds=trio.current_time() - began)
                    await trio.sleep(self._next_wait(backoff))
            nursery.cancel_scope.cancel()

    def _next_wait(self, backoff: Backoff) -> float:
        host = self.link.host
        if self._is_refused():
            # It may have been asked again, and have been out of reach: the back-off counts as well.
            wait = backoff.next_wait(at_least=min(one.asks_again_in for one in self._registrations.values()))
            logger.error("giving up %s, where nothing can be registered; asking again in %.0f s", host, wait)
            return wait
        # Sessions that look well count too: of a data channel's loss we may hear later than of this one's.
        urgent = bool(self._channels.of(self.link))
        wait = backoff.next_wait(at_least=self._retry_after, at_most=_RESUME_BACKOFF if urgent else None)
        logger.info("trying %s again in %.1f s", host, wait)
        return wait

    def _is_refused(self) -> bool:
        return all(registration.is_refused for registration in self._registrations.values())

    async def _serve_or_tell(self, channels: trio.Nursery) -> bool:
        """One control channel, and a word in the log on why it ended. Whether to go on at once: we have ended it."""
        self._retry_after = 0.0
        try:
            await self._serve_control(channels)
        except HybridRelayError as exc:
            if self._stopping:
                return True
            # Only before anything has worked is it the operator's to mend. Later, somebody on the way may pose as the
            # relay for a while.
            final = not self._worked and is_hopeless(exc)
            for registration in self._registrations.values():
                if not registration.is_refused or final:
                    registration.failed(exc, final=final)
            logger.log(
                logging.ERROR if final else logging.WARNING, "%s%s", exc, f"; {exc.remedy}" if exc.remedy else ""
            )
            self.link.forget()
            return False
        if self._climbed or self._stopping:
            return True
        if not self._is_refused():
            logger.warning("the control channel to %s was lost", self.link.host)
            if not self._retry_after:
                # What was good may be what broke: a probe is cheap, and a dial into a black hole is not.
                self.link.forget()
        return False

    async def _serve_control(self, channels: trio.Nursery) -> None:
        """Open a control channel, register everything, and serve until it is lost or of no more use.

        Raises:
            HybridRelayError: it could not be opened, or nothing could be registered now.
        """
        try:
            async with FlatNursery() as nursery:
                self._control = channel = await self.link.start_control(nursery)
                if self._stopping:  # we were told while it was being opened
                    channel.close()
                await nursery.start(self._keep_registered, channel)
                carrier = self.link.control_carrier
                assert carrier is not None
                names = ", ".join(name for name, one in self._registrations.items() if one.is_registered)
                if names:
                    self._worked = True
                    logger.info("listening for %s at %s over %s", names, self.link.host, carrier.route.name)
                if self._climbed:
                    self._climbed = False
                    nursery.start_soon(self._channels.move, self.link, carrier)
                await self._serve_messages(channel, channels)
                nursery.cancel_scope.cancel()
        finally:
            self._control = None
            for registration in self._registrations.values():
                registration.is_registered = False

    # --- climbing

    def _in_use(self) -> Candidate | None:
        carriers = [served.carrier for served in self._channels.of(self.link) if served.session.is_open]
        if self._control is not None and self.link.control_carrier is not None:
            carriers.append(self.link.control_carrier)
        return max(carriers, key=lambda candidate: candidate.route.rank, default=None)

    async def _move_up(self, better: Candidate) -> None:
        logger.info("%s works now at %s, moving up", better.route.name, self.link.host)
        carrier = self.link.control_carrier
        if self._control is not None and carrier is not None and carrier.route.rank <= better.route.rank:
            await self._channels.move(self.link, better)
            return
        self._climbed = True
        if self._control is not None:
            self._control.close()

    # --- registrations

    async def _keep_registered(
        self, channel: ControlChannel, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Register everything, and again before it expires; what was refused, as soon as that may have changed.

        Started after the first round.

        Raises:
            HybridRelayError: the channel was lost, or nothing could be registered in the first round.
        """
        backoff = Backoff(first_seconds=2.0)
        first = True
        while True:
            self._stale = trio.Event()
            wait, failed = await self._register_all(channel)
            self._changed()
            if self._is_refused():
                channel.close()  # nothing is left to be done over it
            elif first and failed is not None and not any(one.is_registered for one in self._registrations.values()):
                raise failed
            if first:
                first = False
                task_status.started()
            if failed is not None:
                wait = min(wait, backoff.next_wait())
            for registration in self._registrations.values():
                if registration.is_refused:
                    wait = min(wait, registration.asks_again_in)
            with trio.move_on_after(max(1.0, wait)):
                await self._stale.wait()

    async def _register_all(self, channel: ControlChannel) -> tuple[float, HybridRelayError | None]:
        """One round: for how many seconds it is good, and what failed that may succeed soon.

        Raises:
            RelayUnreachable: the channel was lost.
        """
        until = self._clock() + _MAX_GRANT
        temporary: HybridRelayError | None = None
        for name, registration in self._registrations.items():
            if registration.asks_again_in > 0:
                continue
            twin = registration.published.registered_through(channel.relay)
            if twin is not None and twin is not registration:
                # There, the two would displace each other for ever.
                self._is_twin(registration, twin)
                continue
            token = make_connection_token(registration.published.string, self.link.host, self._clock())
            answer = await channel.request(control.Register(channel.next_id(), name, token, self._replaces))
            if isinstance(answer, control.Registered):
                registration.succeeded(channel.relay)
                until = min(until, answer.expires_at)
            elif isinstance(answer, control.Failed):
                error = failure_error(name, answer)
                self._refused(registration, error)
                if not registration.is_refused:
                    temporary = temporary or error
        return (until - self._clock()) * RENEW_AFTER, temporary

    def _is_twin(self, registration: Registration, twin: Registration) -> None:
        error = ConfigurationError(
            f"{registration.published.name}: {self.link.host} is the same relay as {twin.link.host}",
            reason=Reason.SUPERSEDED,
            remedy="name each relay once in Endpoint",
        )
        registration.failed(error, final=True)
        logger.warning("%s; %s", error, error.remedy)

    def _refused(self, registration: Registration, error: HybridRelayError) -> None:
        final = error.reason.is_permanent
        registration.failed(error, final=final)
        hint = f"; {error.remedy}" if error.remedy else ""
        logger.log(logging.ERROR if final else logging.WARNING, "at %s: %s%s", self.link.host, error, hint)

    # --- what the relay says

    async def _serve_messages(self, channel: ControlChannel, channels: trio.Nursery) -> None:
        """Answer the relay until the channel ends."""
        async for message in channel.messages:
            match message:
                case control.Offer(id=id_, connection=name):
                    registration = self._registrations.get(name)
                    if registration is None or registration.is_refused:
                        await channel.send(control.Failed(id_, Reason.UNKNOWN_CONNECTION))
                    elif registration.unproven >= MAX_UNPROVEN_CHANNELS:
                        await channel.send(control.Failed(id_, Reason.LIMIT))
                    else:
                        registration.unproven += 1
                        channels.start_soon(self._channels.serve, registration, channel, message)
                        await channel.send(control.Accept(id_))
                case control.Ended(connection=name, reason=reason):
                    if registration := self._registrations.get(name):
                        self._refused(registration, failure_error(name, control.Failed(0, reason)))
                        self._changed()
                        self._stale.set()
                        if self._is_refused():
                            return
                case control.Draining(retry_after_seconds=seconds):
                    logger.info("the relay at %s is about to restart", self.link.host)
                    self._retry_after = float(seconds)
                case _:
                    pass
