"""Events of the connector's files and resources."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = [
    "InstanceFileNotUsed",
    "InstanceFileNotWritten",
    "ShareUsedUp",
    "TargetOutOfResources",
]


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
