"""Events of the connector at its relays: control channels, registrations, keys."""

from __future__ import annotations

from typing import ClassVar

import attrs

from ..protocol.reasons import Reason
from .base import Event, Level

__all__ = [
    "ControlChannelLost",
    "DataChannelDeclined",
    "DataChannelFailed",
    "EarlierRegistrationKept",
    "InstanceReplaced",
    "NothingRegistered",
    "RefusedEverywhere",
    "RegistrationEnded",
    "RegistrationFailed",
    "RegistrationMissing",
    "RegistrationPending",
    "RegistrationRefused",
    "RegistrationReplaced",
    "RegistrationStays",
    "RegistrationSucceeded",
    "RegistrationWithdrawn",
    "RelayAskedAgain",
    "RelayNamedTwice",
    "RelayRejected",
    "RelayStillUnavailable",
    "RelayTooManyMessages",
    "RelayUnavailable",
    "RenewalFailed",
]


# --- fields that several events have


@attrs.frozen(kw_only=True)
class _RelayFailure(Event):
    #: The relay.
    host: str
    reason: Reason
    detail: str
    #: The next attempt begins after this time (seconds).
    retry_seconds: float


@attrs.frozen(kw_only=True)
class _Failure(Event):
    connection: str
    #: The relay.
    host: str
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class _FailureWithRemedy(_Failure):
    remedy: str = ""


# --- control channels


@attrs.frozen(kw_only=True)
class RelayUnavailable(_RelayFailure):
    """There is no usable control channel to a relay. Published when the reason changes, and every minute."""

    name: ClassVar = "relay.unavailable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A relay cannot be used at the moment"


@attrs.frozen(kw_only=True)
class RelayStillUnavailable(_RelayFailure):
    """The relay still cannot be used, for the same reason as in the last `RelayUnavailable`."""

    name: ClassVar = "relay.still-unavailable"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A relay still cannot be used"


@attrs.frozen(kw_only=True)
class RelayRejected(_RelayFailure):
    """A relay cannot be used until somebody corrects something, for example because it is not the expected relay.

    If another relay keeps the connector running, the next attempt begins after `retry_seconds`, or at SIGHUP.
    """

    name: ClassVar = "relay.rejected"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "A relay cannot be used until this is corrected"


@attrs.frozen(kw_only=True)
class ControlChannelLost(Event):
    """The last control channel to a relay has ended. Sessions and streams are not affected."""

    name: ClassVar = "control-channel.lost"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The control channel to a relay was lost"

    host: str
    retry_seconds: float


@attrs.frozen(kw_only=True)
class RelayTooManyMessages(Event):
    """A relay has sent so many messages that its control channel was closed."""

    name: ClassVar = "relay.too-many-messages"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A relay has sent too many messages, and its control channel was closed"

    host: str


@attrs.frozen(kw_only=True)
class InstanceReplaced(Event):
    """Another process, perhaps on a copy of this machine, uses this connector's instance."""

    name: ClassVar = "instance.replaced"
    level: ClassVar = Level.WARNING
    summary: ClassVar = (
        "Another process has registered as this connector's instance, so this connector continues as a new one"
    )

    host: str
    #: The id of the new instance.
    instance: str


# --- registrations


@attrs.frozen(kw_only=True)
class RegistrationSucceeded(Event):
    """A hybrid connection was registered over a control channel. Not published when a registration is renewed."""

    name: ClassVar = "registration.succeeded"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A hybrid connection is registered at a relay"

    connection: str
    host: str
    route: str


@attrs.frozen(kw_only=True)
class RegistrationEnded(Event):
    """A hybrid connection is no longer registered. Another event reports the cause."""

    name: ClassVar = "registration.ended"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A hybrid connection is no longer registered at a relay"

    connection: str
    host: str
    #: `Reason.SESSION_LOST` if the control channel has ended, `Reason.NO_ERROR` if the connector withdrew the
    #: registration.
    reason: Reason


@attrs.frozen(kw_only=True)
class RegistrationRefused(_FailureWithRemedy):
    """A relay has refused a hybrid connection, or ended its registration, for a permanent reason."""

    name: ClassVar = "registration.refused"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "A relay refuses a hybrid connection"


@attrs.frozen(kw_only=True)
class RegistrationFailed(_FailureWithRemedy):
    """A relay has refused or ended a registration for a temporary reason. The connector tries again soon."""

    name: ClassVar = "registration.failed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A relay does not register a hybrid connection at the moment"


@attrs.frozen(kw_only=True)
class RegistrationStays(_Failure):
    """A hybrid connection could not be registered over the newest control channel. Its earlier registration stays."""

    name: ClassVar = "registration.stays"
    level: ClassVar = Level.INFO
    summary: ClassVar = (
        "A hybrid connection could not be registered over the newest control channel, and its earlier registration "
        "stays"
    )


@attrs.frozen(kw_only=True)
class RenewalFailed(Event):
    """Registrations could not be renewed. Their control channel is closed, and another one is opened."""

    name: ClassVar = "registration.renewal-failed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "Registrations could not be renewed, so their control channel is replaced"

    host: str
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class NothingRegistered(Event):
    """A relay has refused all registrations for permanent reasons.

    If another relay keeps the connector running, the next attempt begins after `retry_seconds`, or at SIGHUP.
    """

    name: ClassVar = "registration.none"
    level: ClassVar = Level.ERROR
    summary: ClassVar = (
        "A relay has refused all registrations for permanent reasons. If another relay keeps the connector running, "
        "the relay that has refused is tried again after retry_seconds, or at once at SIGHUP"
    )

    host: str
    retry_seconds: float


@attrs.frozen(kw_only=True)
class RelayAskedAgain(Event):
    """A relay that had refused all registrations is tried again, because no other relay accepts this connector."""

    name: ClassVar = "registration.asked-again"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A relay is tried again, because no other relay accepts this connector"

    host: str


@attrs.frozen(kw_only=True)
class RelayNamedTwice(Event):
    """Two host names of a connection string lead to the same relay."""

    name: ClassVar = "relay.named-twice"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Two host names are the same relay: name each relay once in Endpoint"

    connection: str
    host: str
    #: The name under which the hybrid connection is registered.
    other_host: str


@attrs.frozen(kw_only=True)
class RegistrationWithdrawn(Event):
    """The connector has withdrawn a registration, because the changed connection string no longer names the
    relay."""

    name: ClassVar = "registration.withdrawn"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A registration was withdrawn from a relay that the connection string no longer names"

    connection: str
    host: str


@attrs.frozen(kw_only=True)
class RegistrationReplaced(Event):
    """A relay has other ports or other pins in the changed connection string, and has registered the hybrid
    connection again; the earlier registration has ended."""

    name: ClassVar = "registration.replaced"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A registration has replaced the one that was made before the connection string was changed"

    connection: str
    host: str


@attrs.frozen(kw_only=True)
class EarlierRegistrationKept(_FailureWithRemedy):
    """A relay cannot be used as the changed connection string describes it, with its pins or ports, and the
    registration that was made before the change stays."""

    name: ClassVar = "registration.earlier-kept"
    level: ClassVar = Level.ERROR
    summary: ClassVar = (
        "A relay cannot be used with the changed connection string, and the earlier registration stays there"
    )


@attrs.frozen(kw_only=True)
class RefusedEverywhere(Event):
    """At the start, every relay has refused one of several connection strings. The connector serves the others."""

    name: ClassVar = "registration.refused-everywhere"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "Every relay refuses a hybrid connection, so it is not served"

    connection: str
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class RegistrationMissing(_Failure):
    """The connector is ready, but a hybrid connection is not registered at one of its relays."""

    name: ClassVar = "registration.missing"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A hybrid connection is not registered at one of its relays"


@attrs.frozen(kw_only=True)
class RegistrationPending(Event):
    """The connector is ready, but one of its relays has not answered yet."""

    name: ClassVar = "registration.pending"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A hybrid connection is not registered yet at one of its relays, which has not answered"

    connection: str
    host: str


# --- data channels


@attrs.frozen(kw_only=True)
class DataChannelFailed(_FailureWithRemedy):
    """A data channel ended before there was a session over it."""

    name: ClassVar = "data-channel.failed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A data channel failed"

    #: The id of the channel's rendezvous, as stated by the relay: ``activity_id`` in the relay's events.
    rendezvous: str = ""


@attrs.frozen(kw_only=True)
class DataChannelDeclined(_Failure):
    """A data channel was not used, for a reason that needs no attention."""

    name: ClassVar = "data-channel.declined"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A data channel was not used"

    rendezvous: str = ""
