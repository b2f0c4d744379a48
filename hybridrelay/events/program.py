"""Events of every program: its life, its files, and the resources of its machine."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = [
    "CertificateNotRenewed",
    "CertificateRenewed",
    "CertificateUnchanged",
    "FileReadableByOthers",
    "InternalError",
    "LeftoverRemoved",
    "ListenAddressSkipped",
    "ProgramReady",
    "ProgramStarted",
    "ProgramStopping",
    "ResourcesRestored",
    "ResourcesShort",
]


@attrs.frozen(kw_only=True)
class ProgramStarted(Event):
    """A program has read its configuration and begins its work."""

    name: ClassVar = "program.started"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "The program has started"

    #: ``relay``; connector and client publish no such event.
    role: str
    #: Of hybridrelay.
    version: str


@attrs.frozen(kw_only=True)
class ProgramReady(Event):
    """A program serves now."""

    name: ClassVar = "program.ready"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "The program is ready"

    #: ``relay``; connector and client publish no such event.
    role: str
    #: Addresses that it listens on.
    addresses: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ProgramStopping(Event):
    """A program stops: it accepts nothing new, and lets what is open continue for a while."""

    name: ClassVar = "program.stopping"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The program is stopping"

    #: ``relay`` or ``connector``.
    role: str
    #: Control channels (relay) or sessions (connector) that are open; their peers are notified.
    open: int


@attrs.frozen(kw_only=True)
class _Certificate(Event):
    #: Of the certificate.
    file: str


@attrs.frozen(kw_only=True)
class CertificateRenewed(_Certificate):
    """New connections use the certificate that the files contain now."""

    name: ClassVar = "certificate.renewed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The certificate was reloaded, and new connections use it"

    #: ``sha256:...``
    pin: str


@attrs.frozen(kw_only=True)
class CertificateUnchanged(_Certificate):
    """The certificate files were read again, and are the same."""

    name: ClassVar = "certificate.unchanged"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The certificate has not changed"


@attrs.frozen(kw_only=True)
class CertificateNotRenewed(_Certificate):
    """The files have changed, but cannot be used."""

    name: ClassVar = "certificate.not-renewed"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "The renewed certificate cannot be used, and the earlier one stays in force"

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
    #: What ran out.
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
class FileReadableByOthers(Event):
    """A file with secrets in it can be read by other users of this machine."""

    name: ClassVar = "file.readable-by-others"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A file with secrets can be read by others: chmod 600 it"

    file: str


@attrs.frozen(kw_only=True)
class LeftoverRemoved(Event):
    """A command that was killed had left a file beside the one that it was to replace, perhaps with a key in it."""

    name: ClassVar = "file.leftover-removed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A file that a command had left when it was killed was removed"

    file: str


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
