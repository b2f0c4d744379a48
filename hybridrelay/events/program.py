"""Events of every program: its life, its files, and the resources of its machine."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = [
    "CertificateNotRenewed",
    "CertificateRenewed",
    "CertificateUnchanged",
    "InternalError",
    "ListenAddressSkipped",
    "ProgramReady",
    "ProgramStarted",
    "ProgramStopping",
    "ResourcesRestored",
    "ResourcesShort",
    "RouteChosen",
]


@attrs.frozen(kw_only=True)
class ProgramStarted(Event):
    """It has read its configuration and begins its work."""

    name: ClassVar = "program.started"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "The program has started"

    #: ``relay``, ``connector`` or ``client``.
    role: str
    #: Of hybridrelay.
    version: str


@attrs.frozen(kw_only=True)
class ProgramReady(Event):
    """It serves now."""

    name: ClassVar = "program.ready"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "The program is ready"

    role: str
    #: Addresses that it listens on.
    addresses: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ProgramStopping(Event):
    """It was told to stop, accepts nothing new, and lets what is open continue for a while."""

    name: ClassVar = "program.stopping"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The program is stopping"

    role: str
    #: Peers (relay) or sessions (connector, client) that are open, and are told.
    open: int


@attrs.frozen(kw_only=True)
class CertificateRenewed(Event):
    """New connections use the certificate that the files contain now."""

    name: ClassVar = "certificate.renewed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The certificate was reloaded, and new connections use it"

    file: str
    #: ``sha256:...``
    pin: str


@attrs.frozen(kw_only=True)
class CertificateUnchanged(Event):
    """The certificate files were read again, and are the same."""

    name: ClassVar = "certificate.unchanged"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The certificate has not changed"

    file: str


@attrs.frozen(kw_only=True)
class CertificateNotRenewed(Event):
    """The files have changed, but cannot be used."""

    name: ClassVar = "certificate.not-renewed"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "The renewed certificate cannot be used, and the earlier one stays in force"

    file: str
    detail: str
    remedy: str = ""


@attrs.frozen(kw_only=True)
class ResourcesShort(Event):
    """This machine or process has run out of descriptors or memory, and resets new connections."""

    name: ClassVar = "resources.short"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "A resource has run out, and new connections are reset"

    #: What accepts the connections: ``port data``.
    where: str
    #: What has run out.
    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class ResourcesRestored(Event):
    """No connection had to be reset for a while after `ResourcesShort`, or the program ends."""

    name: ClassVar = "resources.restored"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "New connections are accepted again after a resource had run out"

    where: str
    #: What had run out.
    detail: str
    #: How many connections were reset.
    connections_reset: int


@attrs.frozen(kw_only=True)
class ListenAddressSkipped(Event):
    """One of several local addresses cannot be listened on; the others are used."""

    name: ClassVar = "listening.address-skipped"
    level: ClassVar = Level.INFO
    summary: ClassVar = "An address cannot be listened on, and the others are used"

    address: str
    detail: str


@attrs.frozen(kw_only=True)
class RouteChosen(Event):
    """A relay can be reached, and this route is used for it from now on."""

    name: ClassVar = "route.chosen"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A route to the relay was chosen"

    #: The relay.
    host: str
    #: ``tcp``, ``wss``, ``ws``.
    route: str
    #: The route that was used before; empty for the first one.
    before: str = ""
    detail: str = ""


@attrs.frozen(kw_only=True)
class InternalError(Event):
    """A bug of this program. One connection or stream ends by it, and the program goes on."""

    name: ClassVar = "internal.error"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "Something failed unexpectedly; please report this as a bug"

    #: What failed.
    where: str
    connection: str = ""
    exception: BaseException
