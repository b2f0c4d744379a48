"""Events of the relay: what administrators change while it runs."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = [
    "ConnectionCreated",
    "ConnectionDeleted",
    "ConnectionDisabled",
    "ConnectionEnabled",
    "DrainEnded",
    "DrainStarted",
    "KeyChanged",
    "KeyNotKept",
    "KeyRevoked",
    "KeyRollAnswered",
    "KeyRollEnded",
    "KeyRollIncomplete",
    "KeyRollStarted",
    "PortClosed",
    "PortOpened",
    "UpdateAnswered",
]


@attrs.frozen(kw_only=True)
class _Key(Event):
    connection: str
    rule: str
    slot: str


@attrs.frozen(kw_only=True)
class KeyChanged(_Key):
    """A key was regenerated, or its rule has lost a right. Everything that the earlier key had authorized ends."""

    name: ClassVar = "key.changed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A key was changed"


@attrs.frozen(kw_only=True)
class KeyRevoked(_Key):
    """A key was revoked. Everything that it had authorized ends."""

    name: ClassVar = "key.revoked"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A key was revoked"


@attrs.frozen(kw_only=True)
class KeyRollStarted(_Key):
    """The relay gives the new key in a slot to the programs that use the rule's other key. Also published when the
    relay is started during a roll."""

    name: ClassVar = "key.roll-started"
    level: ClassVar = Level.INFO
    summary: ClassVar = "Programs that use a key are given a new one"


@attrs.frozen(kw_only=True)
class KeyRollAnswered(Event):
    """A program has said what it has done with a new key."""

    name: ClassVar = "key.roll-answered"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A program was given a new key, and has answered"

    connection: str
    rule: str
    peer: str
    instance: str
    #: ``kept``, ``memory`` (it would not have the key after a restart), or ``waiting`` (another relay does not accept
    #: the key).
    state: str
    detail: str = ""


@attrs.frozen(kw_only=True)
class KeyNotKept(Event):
    """A program uses a new key and cannot store it: after a restart, it would use the old one, which is revoked by
    then. The relay gives it the key again until it has stored it."""

    name: ClassVar = "key.not-kept"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A program has a new key only in memory, and would fail after a restart"

    connection: str
    rule: str
    peer: str
    instance: str
    #: Why it cannot store it, as it says.
    detail: str = ""


@attrs.frozen(kw_only=True)
class KeyRollIncomplete(Event):
    """The old key of a rule was revoked, and programs have not stored the new one. ``keys list`` still shows them."""

    name: ClassVar = "key.roll-incomplete"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The old key was revoked, and programs that have not stored the new one fail after a restart"

    connection: str
    rule: str
    #: How many programs.
    programs: int


@attrs.frozen(kw_only=True)
class KeyRollEnded(_Key):
    """The old key of a rule was revoked, because all programs have the new one, or the grace period is over."""

    name: ClassVar = "key.roll-ended"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The old key was revoked: the roll is over"

    #: Whether the grace period was over before all programs had the new key and nothing used the old one.
    has_waited: bool
    #: How many programs did not have it.
    missing: int


@attrs.frozen(kw_only=True)
class ConnectionCreated(Event):
    """A hybrid connection was created or imported while the relay was running."""

    name: ClassVar = "connection.created"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A hybrid connection was created"

    connection: str


@attrs.frozen(kw_only=True)
class ConnectionDeleted(Event):
    """A hybrid connection was deleted. Everything that belonged to it ends."""

    name: ClassVar = "connection.deleted"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A hybrid connection was deleted"

    connection: str


@attrs.frozen(kw_only=True)
class ConnectionDisabled(Event):
    """An administrator has disabled a hybrid connection. Its registrations and sessions end, and requests are
    refused."""

    name: ClassVar = "connection.disabled"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A hybrid connection was disabled"

    connection: str


@attrs.frozen(kw_only=True)
class ConnectionEnabled(Event):
    """An administrator has enabled a hybrid connection that was disabled."""

    name: ClassVar = "connection.enabled"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A hybrid connection was enabled again"

    connection: str


# --- drain


@attrs.frozen(kw_only=True)
class DrainStarted(Event):
    """An administrator drains the relay: it accepts no new registrations and joins. Sessions continue."""

    name: ClassVar = "drain.started"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The relay is draining: it accepts no new registrations and joins"


@attrs.frozen(kw_only=True)
class DrainEnded(Event):
    """An administrator has ended the drain: the relay accepts registrations and joins again."""

    name: ClassVar = "drain.ended"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The relay accepts registrations and joins again"


@attrs.frozen(kw_only=True)
class UpdateAnswered(Event):
    """A program has said what it has done with an update of its connection string."""

    name: ClassVar = "update.answered"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A program was given an update of its connection string, and has answered"

    connection: str
    peer: str
    instance: str
    #: The side that the update is for: ``connector`` or ``application``.
    role: str
    #: The serial of the one identity that it is for; empty if it is for all programs of that side.
    serial: str
    sequence: int
    #: ``kept``, ``memory`` (the program would have to get it again after a restart), ``waiting`` (it does not use it
    #: yet) or ``refused``.
    state: str
    detail: str = ""


@attrs.frozen(kw_only=True)
class _Port(Event):
    #: ``control``, ``data``, ``http``, ...
    port: str
    #: Such as ``203.0.113.7:443``; more than one if the name of a host has several.
    address: str


@attrs.frozen(kw_only=True)
class PortOpened(_Port):
    """After a reload, the relay listens on one more address."""

    name: ClassVar = "port.opened"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The relay listens on one more address"


@attrs.frozen(kw_only=True)
class PortClosed(_Port):
    """After a reload, the relay no longer listens on an address. Connections that were accepted there continue."""

    name: ClassVar = "port.closed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The relay no longer listens on an address; open connections continue"
