"""The hybrid connections at one relay: which are registered, which are refused, and the key for control channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...errors import ConfigurationError, HybridRelayError
from ...events.connector import (
    RegistrationEnded,
    RegistrationFailed,
    RegistrationRefused,
    RegistrationStays,
    RegistrationSucceeded,
    RelayAskedAgain,
    RelayNamedTwice,
)
from ...events.endpoint import EarlierKeyUsed
from ...protocol.reasons import Reason
from ...security import ConnectionString, Secret
from . import commands
from .commands import Output
from .entry import Registration
from .inputs import RelayIdentity

__all__ = ["MAX_GRANT", "Registrations"]

#: The longest registration that a relay can grant; longer grants are treated as this (seconds).
MAX_GRANT = 3600.0


class Registrations(Mapping[str, Registration]):
    """The hybrid connections by name, in the order in which they were added.

    Args:
        host: the relay, for events.
        out: the list to which commands and events are appended.
    """

    def __init__(self, host: str, out: list[Output]) -> None:
        self._host = host
        self._out = out
        self._by_name: dict[str, Registration] = {}
        #: The key with which new control channels are opened.
        self._key: Secret | None = None

    def __getitem__(self, name: str) -> Registration:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    # --- looking at them

    @property
    def are_refused(self) -> bool:
        """Whether the relay refuses all of them."""
        return all(one.is_refused for one in self.values())

    def asks_again_in(self, now: float) -> float:
        """Return the seconds until a refused request may be repeated; `MAX_GRANT` if there is none."""
        return min((one.asks_again_in(now) for one in self.values() if one.is_refused), default=MAX_GRANT)

    def are_hopeless(self, now: float) -> bool:
        """Return whether all are refused, and it is too early to ask again."""
        return self.are_refused and self.asks_again_in(now) > 0

    def has_any_over(self, channel: int) -> bool:
        """Return whether at least one is registered over this control channel."""
        return any(one.over == channel for one in self.values())

    # --- what is to be registered

    def add(self, name: str, string: ConnectionString) -> None:
        """Add a hybrid connection that is to be registered."""
        self._by_name[name] = Registration(name, string)
        self.choose_key()

    def remove(self, name: str) -> Registration:
        """Remove a hybrid connection that is no longer to be registered."""
        registration = self._by_name.pop(name)
        self.choose_key()
        return registration

    def change_string(self, name: str, string: ConnectionString, now: float) -> None:
        """Use another connection string for a hybrid connection from now on."""
        registration = self[name]
        registration.string = string
        registration.ask_again(now)
        # Until the relay has answered, it is not known which key authorizes its offers.
        registration.key = None
        self.choose_key()

    def choose_key(self) -> None:
        """Choose the key for the next control channels: the first one that the relay has not refused."""
        if self:
            key = min(self.values(), key=lambda one: one.is_refused).key_in_use
            if key != self._key:
                self._key = key
                self._out.append(commands.UseKey(key))

    def check_refusals(self, now: float) -> bool:
        """Prepare to repeat the requests that were refused a while ago. Returns whether there are any."""
        outdated = [one for one in self.values() if one.may_be_outdated(now)]
        for one in outdated:
            one.ask_again(now)
        if outdated:
            self._out.append(RelayAskedAgain(host=self._host))
        return bool(outdated)

    # --- results of requests, and losses

    def succeeded(
        self, one: Registration, string: ConnectionString, *, over: int, route: str, relay: RelayIdentity, now: float
    ) -> None:
        """Note that the relay has registered it with this connection string over this channel."""
        if one.over != over:
            self._out.append(RegistrationSucceeded(connection=one.name, host=self._host, route=route))
        one.succeeded(over, relay, string, now)

    def lose(self, one: Registration, reason: Reason) -> None:
        """Note that it is no longer registered, if it was."""
        if one.over is not None:
            one.over = None
            self._out.append(RegistrationEnded(connection=one.name, host=self._host, reason=reason))

    def lose_all_over(self, channel: int) -> None:
        """Note that this control channel has ended, so that nothing is registered over it."""
        for one in self.values():
            if one.over == channel:
                self.lose(one, Reason.SESSION_LOST)

    def failed(self, one: Registration, error: HybridRelayError, now: float) -> None:
        """Note that the relay has refused to register it, or has ended its registration."""
        permanent = error.reason.is_permanent and not one.is_untried
        self.lose(one, error.reason)
        one.failed(error, now, permanent=permanent)
        kind: type[RegistrationRefused | RegistrationFailed]
        kind = RegistrationRefused if permanent else RegistrationFailed
        self._out.append(
            kind(
                connection=one.name,
                host=self._host,
                reason=error.reason,
                detail=str(error),
                remedy=error.remedy or "",
            )
        )

    def all_failed(self, error: HybridRelayError, now: float, *, permanent: bool) -> None:
        """Note that nothing could be requested, for the reason in `error`. Unless it is `permanent`, hybrid
        connections that were refused before keep the reason of that refusal."""
        for one in self.values():
            if permanent or not one.is_refused:
                one.failed(error, now, permanent=permanent)

    def stays(self, one: Registration, error: HybridRelayError) -> None:
        """Note that the relay refuses it over a new channel, while it is still registered over an earlier one. If the
        relay ends that registration, it says so over the earlier channel."""
        self._out.append(
            RegistrationStays(connection=one.name, host=self._host, reason=error.reason, detail=str(error))
        )

    def falls_back(self, one: Registration, error: HybridRelayError) -> None:
        """Note that the relay refuses its changed connection string, but accepts the earlier one."""
        if one.rejected is not one.string:  # each renewal tries the new key again, but the event is published once
            one.rejected = one.string
            self._out.append(
                EarlierKeyUsed(
                    connection=one.name,
                    host=self._host,
                    reason=error.reason,
                    detail=str(error),
                    remedy=error.remedy or "",
                )
            )

    def same_relay(self, one: Registration, host: str, now: float) -> None:
        """Note that it is already registered at this relay under another host name. Two registrations would keep
        replacing each other."""
        error = ConfigurationError(
            f"{one.name}: {self._host} is the same relay as {host}",
            reason=Reason.SUPERSEDED,
            remedy="name each relay once in Endpoint",
        )
        self.lose(one, error.reason)
        one.failed(error, now, permanent=True)
        self._out.append(RelayNamedTwice(connection=one.name, host=self._host, other_host=host))
