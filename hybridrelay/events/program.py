"""Events of all programs: starting and stopping, reloading, files, and the resources of the machine."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .._shortage import OUT_OF_MEMORY
from .base import Event, Level

__all__ = [
    "CertificateNotRenewed",
    "CertificateRenewed",
    "CertificateUnchanged",
    "ConfigurationReloaded",
    "ConnectionStringReloaded",
    "DialOptionsReloaded",
    "FileReadableByOthers",
    "InternalError",
    "LeftoverRemoved",
    "ListenAddressSkipped",
    "OptionsReloaded",
    "OptionsUnchanged",
    "OutOfMemory",
    "ProgramReady",
    "ProgramStarted",
    "ProgramStopped",
    "ProgramStopping",
    "ReloadFailed",
    "ReloadSkipped",
    "ResourcesRestored",
    "ResourcesShort",
    "RestartNeeded",
    "StatusListening",
    "StopRequested",
]


@attrs.frozen(kw_only=True)
class ProgramStarted(Event):
    """A program has read its configuration and is starting."""

    name: ClassVar = "program.started"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "The program has started"

    #: ``relay``; or ``connector``, ``forward`` or ``run``, if the program has audit files or other audit sinks.
    role: str
    #: The version of hybridrelay.
    version: str


@attrs.frozen(kw_only=True)
class ProgramReady(Event):
    """A program is serving."""

    name: ClassVar = "program.ready"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "The program is ready"

    #: ``relay``; connector and client publish no such event.
    role: str
    #: Addresses that it listens on.
    addresses: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class StatusListening(Event):
    """A connector, `forward` or `run` serves its status (``--status``)."""

    name: ClassVar = "status.listening"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The status of this program is served"

    #: The path of a Unix socket, or ``host:port``.
    address: str


@attrs.frozen(kw_only=True)
class ProgramStopping(Event):
    """A program is stopping. It accepts no new connections, and lets open ones continue for a while."""

    name: ClassVar = "program.stopping"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The program is stopping"

    #: ``relay`` or ``connector``.
    role: str
    #: Control channels (relay) or sessions (connector) that are open; their peers are notified.
    open: int


@attrs.frozen(kw_only=True)
class ProgramStopped(Event):
    """A program ends; this is the last event in its audit log. Published if it has audit files or other audit
    sinks."""

    name: ClassVar = "program.stopped"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "The program has stopped"

    #: ``relay``, ``connector``, ``forward`` or ``run``.
    role: str


@attrs.frozen(kw_only=True)
class StopRequested(Event):
    """A signal has asked a program to stop gracefully."""

    name: ClassVar = "program.stop-requested"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The program was asked to stop; send the signal again to stop at once"

    #: ``SIGTERM`` or ``SIGINT``.
    signal: str


# --- reloading


@attrs.frozen(kw_only=True)
class ReloadFailed(Event):
    """A file cannot be read, or is not valid. The program continues to use what it had read before."""

    name: ClassVar = "reload.failed"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "A file was not reloaded; what was read before stays in force"

    detail: str
    remedy: str = ""


@attrs.frozen(kw_only=True)
class ReloadSkipped(Event):
    """SIGHUP has requested a reload, and there is nothing to reload."""

    name: ClassVar = "reload.skipped"
    level: ClassVar = Level.INFO
    summary: ClassVar = "Nothing was reloaded"

    detail: str


@attrs.frozen(kw_only=True)
class ConnectionStringReloaded(Event):
    """A connection string file was read again."""

    name: ClassVar = "connection-string.reloaded"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A connection string was reloaded"

    file: str
    #: The parts that have changed and are used from now on; empty if the connection string is unchanged.
    changed: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ConfigurationReloaded(Event):
    """A configuration file was read again, and the program serves what is in it now."""

    name: ClassVar = "configuration.reloaded"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The configuration file was reloaded"

    file: str
    #: The names of the hybrid connections that are served in addition, no longer, or with other settings.
    started: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    #: How many hybrid connections were not touched.
    unchanged: int


@attrs.frozen(kw_only=True)
class DialOptionsReloaded(Event):
    """A connector or client has read again how it reaches relays. Existing connections continue."""

    name: ClassVar = "dial-options.reloaded"
    level: ClassVar = Level.INFO
    summary: ClassVar = "How relays are reached has changed, and new connections use it"

    #: What has changed: ``proxy`` (with its credentials), ``path-prefix`` or ``header-fields``.
    changed: tuple[str, ...]


@attrs.frozen(kw_only=True)
class OptionsReloaded(Event):
    """A configuration file was read again, and the program uses what has changed in it. Open connections continue."""

    name: ClassVar = "options.reloaded"
    level: ClassVar = Level.INFO
    summary: ClassVar = "Options were reloaded, and are used from now on"

    file: str
    #: The keys in the file.
    changed: tuple[str, ...]


@attrs.frozen(kw_only=True)
class OptionsUnchanged(Event):
    """A relay has read its configuration file again, and there is nothing to change."""

    name: ClassVar = "options.unchanged"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The configuration file was reloaded, and all options in it are in use already"

    file: str


@attrs.frozen(kw_only=True)
class RestartNeeded(Event):
    """Something has changed in a configuration file that a running program cannot change."""

    name: ClassVar = "restart.needed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A change takes effect only after a restart"

    file: str
    changed: tuple[str, ...]


# --- certificates


@attrs.frozen(kw_only=True)
class _Certificate(Event):
    #: The certificate's file.
    file: str


@attrs.frozen(kw_only=True)
class CertificateRenewed(_Certificate):
    """The certificate files were read again, and new connections use the new certificate."""

    name: ClassVar = "certificate.renewed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The certificate was reloaded, and new connections use it"

    #: ``sha256:...``
    pin: str


@attrs.frozen(kw_only=True)
class CertificateUnchanged(_Certificate):
    """The certificate files were read again and have not changed."""

    name: ClassVar = "certificate.unchanged"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The certificate has not changed"


@attrs.frozen(kw_only=True)
class CertificateNotRenewed(_Certificate):
    """The certificate files have changed but cannot be used."""

    name: ClassVar = "certificate.not-renewed"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "The renewed certificate cannot be used; the earlier one stays in force"

    detail: str
    remedy: str = ""


# --- resources and files


@attrs.frozen(kw_only=True)
class ResourcesShort(Event):
    """The process or the machine has run out of descriptors or memory, and new connections are reset."""

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
    """After `ResourcesShort`, no connection had to be reset for a while, or the program is ending."""

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
    """The program cannot listen on one of several local addresses. The others are used."""

    name: ClassVar = "listening.address-skipped"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The program cannot listen on one of its addresses; the others are used"

    address: str
    detail: str


@attrs.frozen(kw_only=True)
class FileReadableByOthers(Event):
    """A file that contains secrets can be read by other users of this machine."""

    name: ClassVar = "file.readable-by-others"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A file with secrets can be read by others: chmod 600 it"

    file: str


@attrs.frozen(kw_only=True)
class LeftoverRemoved(Event):
    """A temporary file, which may contain a key, was removed. A command had left it behind when it was killed."""

    name: ClassVar = "file.leftover-removed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A temporary file that a killed command had left behind was removed"

    file: str


@attrs.frozen(kw_only=True)
class InternalError(Event):
    """A bug in this program. A connection or stream ends because of it, and the program continues."""

    name: ClassVar = "internal.error"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "Something failed unexpectedly; please report this as a bug"

    #: What failed.
    where: str
    connection: str = ""
    exception: BaseException


@attrs.frozen(kw_only=True)
class OutOfMemory(Event):
    """This program cannot get more memory. A connection or stream ends because of it, and the program continues."""

    name: ClassVar = "memory.used-up"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "Something failed because this program cannot get more memory"

    #: What failed.
    where: str
    connection: str = ""
    remedy: str = OUT_OF_MEMORY.remedy
