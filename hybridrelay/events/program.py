"""Events of every program: its life, its files, and the resources of its machine."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = [
    "CertificateNotRenewed",
    "CertificateRenewed",
    "CertificateUnchanged",
    "ConnectionStringReloaded",
    "FileReadableByOthers",
    "InternalError",
    "LeftoverRemoved",
    "ListenAddressSkipped",
    "ProgramReady",
    "ProgramStarted",
    "ProgramStopping",
    "ReloadFailed",
    "ReloadSkipped",
    "ResourcesRestored",
    "ResourcesShort",
    "RestartNeeded",
    "StopRequested",
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
class StopRequested(Event):
    """A signal asks a program to stop gracefully."""

    name: ClassVar = "program.stop-requested"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The program was asked to stop; send the signal again to stop at once"

    #: ``SIGTERM`` or ``SIGINT``.
    signal: str


# --- reloading


@attrs.frozen(kw_only=True)
class ReloadFailed(Event):
    """A file cannot be used. The program goes on with what it has read before."""

    name: ClassVar = "reload.failed"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "A file was not reloaded, and what was read before stays in force"

    detail: str
    remedy: str = ""


@attrs.frozen(kw_only=True)
class ReloadSkipped(Event):
    """SIGHUP asks for a reload, and there is nothing to reload."""

    name: ClassVar = "reload.skipped"
    level: ClassVar = Level.INFO
    summary: ClassVar = "Nothing was reloaded"

    detail: str


@attrs.frozen(kw_only=True)
class ConnectionStringReloaded(Event):
    """The file of a connection string was read again."""

    name: ClassVar = "connection-string.reloaded"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A connection string was reloaded"

    file: str
    #: What is different in it and is used from now on; nothing if it is unchanged.
    changed: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class RestartNeeded(Event):
    """Something that a running program cannot change is different in the file of a connection string."""

    name: ClassVar = "restart.needed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A change takes effect only after a restart"

    file: str
    changed: tuple[str, ...]


# --- certificates


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


# --- resources and files


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
