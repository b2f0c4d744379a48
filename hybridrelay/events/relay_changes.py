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
    "KeyRevoked",
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
