"""Events of the connector's targets, files and resources."""

from __future__ import annotations

from typing import ClassVar

import attrs

from ..protocol.reasons import Reason
from .base import Event, Level

__all__ = [
    "InstanceFileNotUsed",
    "InstanceFileNotWritten",
    "ShareUsedUp",
    "TargetHealthy",
    "TargetOutOfResources",
    "TargetUnhealthy",
]


# --- targets


@attrs.frozen(kw_only=True)
class TargetUnhealthy(Event):
    """Several attempts in a row to connect to the target have failed. The relays are told, and prefer other
    connectors."""

    name: ClassVar = "target.unhealthy"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The target cannot be reached: relays prefer other connectors for new sessions"

    connection: str
    target: str
    #: Why the last attempt failed.
    reason: Reason
    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class TargetHealthy(Event):
    """Connecting to a target that was unhealthy has succeeded several times in a row."""

    name: ClassVar = "target.healthy"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The target can be reached again"

    connection: str
    target: str


# --- resources


@attrs.frozen(kw_only=True)
class ShareUsedUp(Event):
    """An application has so many open streams that it may not open more: the rest is reserved for others."""

    name: ClassVar = "share.used-up"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "An application has used up its share of a resource, and a stream was refused"

    connection: str
    label: str
    serial: str
    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class TargetOutOfResources(Event):
    """This machine has no descriptor, local port or memory left for a connection to the target."""

    name: ClassVar = "target.out-of-resources"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The connector cannot connect to the target, because a resource of this machine has run out"

    connection: str
    target: str
    detail: str
    remedy: str


# --- the instance file


@attrs.frozen(kw_only=True)
class InstanceFileNotWritten(Event):
    """The instance file cannot be written."""

    name: ClassVar = "instance-file.not-written"
    level: ClassVar = Level.WARNING
    summary: ClassVar = (
        "The instance file cannot be written: if this connector is killed, its clients notice only after their "
        "resume deadline"
    )

    file: str
    detail: str


@attrs.frozen(kw_only=True)
class InstanceFileNotUsed(Event):
    """There is no directory for the connector's instance file."""

    name: ClassVar = "instance-file.not-used"
    level: ClassVar = Level.INFO
    summary: ClassVar = (
        "The connector has no instance file: if it is killed, its clients notice only after their resume deadline"
    )

    detail: str
