"""What a connector has registered at one relay, and what the relay said to it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .._log_limit import LimitedLogger
from ..connectivity.control import ControlChannel
from ..connectivity.instance import OwnInstance
from ..connectivity.link import RelayLink, make_connection_token
from ..connectivity.refusals import failure_error
from ..errors import AuthorizationError, ConfigurationError, HybridRelayError
from ..protocol import control
from ..protocol.reasons import Reason
from ..security import ConnectionString, Secret
from .published import Published, Registration

logger = LimitedLogger("hybridrelay.connector")

#: Registrations are renewed after this part of the time that the relay grants.
RENEW_AFTER = 0.7
#: The longest time that a relay grants, as far as we are concerned (seconds).
_MAX_GRANT = 3600.0


class Registrations:
    """The registrations at one relay, over whichever control channel each of them is.

    Args:
        link: the relay.
        replaces: earlier instances of this connector that are dead.
        clock: seconds since 1970.
    """

    def __init__(self, link: RelayLink, *, replaces: tuple[OwnInstance, ...], clock: Callable[[], float]) -> None:
        self._link = link
        self._replaces = tuple(instance.secret for instance in replaces)
        self._clock = clock
        self._by_name: dict[str, Registration] = {}
        #: What was registered by which request, until the answer has its turn among the relay's other messages.
        self._asked: dict[tuple[ControlChannel, int], tuple[Registration, Secret]] = {}

    def add(self, published: Published) -> None:
        """It is to be registered as well."""
        registration = Registration(published, self._link)
        published.registrations.append(registration)
        self._by_name[published.name] = registration
        self._choose_key()

    def remove(self, registration: Registration) -> None:
        """It is not to be registered any more."""
        if self._by_name.get(registration.published.name) is registration:
            del self._by_name[registration.published.name]
            self._choose_key()

    def renew(self) -> None:
        """Have everything asked about again, what was refused included."""
        for registration in self._by_name.values():
            registration.ask_again()
            # Until the relay has answered, it is not known by which key it offers.
            registration.key = None
        self._choose_key()

    def _choose_key(self) -> None:
        """Have the next control channels prove the first key that the relay has not refused."""
        if self._by_name:
            first = min(self._by_name.values(), key=lambda one: one.is_refused)
            self._link.use_key(first.present_key)

    def __len__(self) -> int:
        return len(self._by_name)

    def find(self, name: str) -> Registration | None:
        """The registration of this hybrid connection, or None where it is not ours."""
        return self._by_name.get(name)

    @property
    def are_refused(self) -> bool:
        """The relay has no use for any of them."""
        return all(registration.is_refused for registration in self._by_name.values())

    @property
    def are_hopeless(self) -> bool:
        """Likewise, and it is not yet time to ask again."""
        return self.are_refused and self.asks_again_in > 0

    def doubt(self) -> bool:
        """Have old refusals asked about before their time; False where there are none."""
        doubtful = [one for one in self._by_name.values() if one.is_doubtful]
        for one in doubtful:
            one.ask_again()
        return bool(doubtful)

    @property
    def asks_again_in(self) -> float:
        """Seconds until the relay may be asked for one that it has refused for good; a great number without such."""
        return min((one.asks_again_in for one in self._by_name.values() if one.is_refused), default=_MAX_GRANT)

    def over(self, channel: ControlChannel) -> list[str]:
        """The hybrid connections that are registered over this control channel."""
        return [name for name, one in self._by_name.items() if one.over is channel]

    async def register(
        self, channel: ControlChannel, *, only_renew: bool = False
    ) -> tuple[float, HybridRelayError | None]:
        """Register everything over this channel, again or for the first time, wherever it was before.

        Args:
            only_renew: only what is registered over this channel.

        Returns:
            For how many seconds that is good, and what failed that may succeed soon.

        Raises:
            RelayUnreachable: the channel was lost.
            RendezvousError: with `Reason.SUPERSEDED` the relay knows a later channel, and none but that will do.
        """
        until = self._clock() + _MAX_GRANT
        temporary: HybridRelayError | None = None
        for name, registration in list(self._by_name.items()):
            if registration.asks_again_in > 0 or (only_renew and registration.over is not channel):
                continue
            twin = registration.published.registered_through(channel.relay)
            if twin is not None and twin is not registration:
                # There, the two would displace each other for ever.
                self._is_twin(registration, twin)
                continue
            string = registration.published.string
            answer = await self._ask(channel, registration, string)
            if isinstance(answer, control.Failed) and (earlier := registration.earlier()) is not None:
                error = failure_error(name, answer)
                if isinstance(error, AuthorizationError):
                    # It was changed while we run. What has worked until now may still be good.
                    answer = await self._ask(channel, registration, earlier)
                    if isinstance(answer, control.Registered):
                        self._falls_back(registration, string, error)
                        temporary = temporary or error
                        string = earlier
            if isinstance(answer, control.Registered):
                registration.succeeded(channel, string)
                until = min(until, answer.expires_at)
            elif isinstance(answer, control.Failed):
                error = failure_error(name, answer)
                if registration.over in (None, channel):
                    self.refused(registration, error)
                else:
                    # Over an earlier channel it is registered still. Should that end, the relay says so there.
                    logger.info("at %s: %s", self._link.host, error)
                if answer.reason is Reason.SUPERSEDED:
                    raise error
                if not registration.is_refused:
                    temporary = temporary or error
        self._choose_key()
        return min((until - self._clock()) * RENEW_AFTER, self.asks_again_in), temporary

    async def _ask(
        self, channel: ControlChannel, registration: Registration, string: ConnectionString
    ) -> control.Message:
        token = make_connection_token(string, self._link.host, self._clock())
        id_ = channel.next_id()
        self._asked[channel, id_] = registration, string.key
        answer = await channel.request(control.Register(id_, registration.published.name, token, self._replaces))
        if not isinstance(answer, control.Registered):
            self._asked.pop((channel, id_), None)
        return answer

    def _falls_back(self, registration: Registration, string: ConnectionString, error: HybridRelayError) -> None:
        if registration.told is not string:  # it is tried again and again
            registration.told = string
            logger.error(
                "at %s: the changed connection string is refused, the earlier key stays in use: %s",
                self._link.host, error,
            )  # fmt: skip

    def confirmed(self, channel: ControlChannel, id_: int) -> None:
        """What the relay offers over this channel from now on is authorized by that request."""
        if asked := self._asked.pop((channel, id_), None):
            registration, key = asked
            registration.key = key

    def _is_twin(self, registration: Registration, twin: Registration) -> None:
        error = ConfigurationError(
            f"{registration.published.name}: {self._link.host} is the same relay as {twin.link.host}",
            reason=Reason.SUPERSEDED,
            remedy="name each relay once in Endpoint",
        )
        registration.failed(error, final=True)
        logger.warning("%s; %s", error, error.remedy)

    def refused(self, registration: Registration, error: HybridRelayError) -> None:
        """The relay does not register it, or does so no longer."""
        final = error.reason.is_permanent
        registration.failed(error, final=final)
        hint = f"; {error.remedy}" if error.remedy else ""
        logger.log(logging.ERROR if final else logging.WARNING, "at %s: %s%s", self._link.host, error, hint)

    def failed(self, error: HybridRelayError, *, final: bool) -> None:
        """None of them could be registered. Those that were refused stay so, and are asked for when it is time."""
        for registration in self._by_name.values():
            if not registration.is_refused or final:
                registration.failed(error, final=final)

    def lost(self, channel: ControlChannel) -> None:
        """The channel is over, and what is registered over it."""
        for registration in self._by_name.values():
            if registration.over is channel:
                registration.over = None
        self._asked = {asked: what for asked, what in self._asked.items() if asked[0] is not channel}
