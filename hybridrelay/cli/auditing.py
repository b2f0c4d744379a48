"""The audit log of relay, connector, forward and run, according to their options."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from .._version import __version__
from ..audit.log import AuditLog
from ..audit.sinks.sink import SinkKind
from ..errors import ConfigurationError
from ..events.program import ProgramStarted, ProgramStopped
from ..events.stream import EventStream
from .logs import write_error

if TYPE_CHECKING:
    from ..audit.sinks.sink import Sink
    from .arguments.audit_options import AuditTarget

__all__ = ["ProgramAudit", "audited"]

#: What a sink is made from: the directory, or the value of ``--audit-to`` and the file of ``--audit-syslog-ca``.
_Origin: TypeAlias = "Path | tuple[AuditTarget, Path | None]"


class ProgramAudit:
    """The audit log of a program, according to its options. It has to be opened by `audited`.

    Args:
        args: the options.

    Raises:
        ConfigurationError: options do not fit together.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._sinks = _make_sinks(args, {})
        self.log = AuditLog(list(self._sinks.values()), required=_required(args))
        self._use_standard_error()

    async def change(self, args: argparse.Namespace) -> None:
        """Use other options from now on. Sinks that are in both continue; an audit directory gets its new limits.

        Raises:
            ConfigurationError, OSError: they cannot be used. Nothing was changed.
        """
        sinks = _make_sinks(args, self._sinks)
        await self.log.use(list(sinks.values()), required=_required(args))
        self._sinks = sinks
        for origin, sink in sinks.items():
            if isinstance(origin, Path):
                from ..audit.sinks.files import FileSink

                assert isinstance(sink, FileSink)
                sink.directory.limit(keep_days=args.audit_keep, max_total=args.audit_max_bytes or None)
        self._use_standard_error()

    def _use_standard_error(self) -> None:
        """Ensure that a record is on standard error only once: as JSON, or as a line of the log."""
        as_json = any(not isinstance(one, Path) and one[0].kind == "stderr" for one in self._sinks)
        logging.getLogger("hybridrelay.audit").disabled = as_json


def _required(args: argparse.Namespace) -> list[SinkKind]:
    return [SinkKind(one) for one in getattr(args, "audit_required", [])]


def _make_sinks(args: argparse.Namespace, earlier: Mapping[_Origin, Sink]) -> dict[_Origin, Sink]:
    """Return the sinks that the options name.

    Args:
        args: the options.
        earlier: sinks that already exist, and are returned again if the options name them.

    Raises:
        ConfigurationError: options do not fit together.
    """
    required = getattr(args, "audit_required", [])
    if args.audit_dir is None and not args.audit_to and required:
        raise ConfigurationError("--audit-required needs --audit-dir or --audit-to", remedy="add one of them")
    found: dict[_Origin, Sink] = {}
    if args.audit_dir is not None:
        found[args.audit_dir] = earlier.get(args.audit_dir) or _make_file_sink(args)
    transports = {target.transport for target in args.audit_to if target.kind == "syslog"}
    if "syslog" in required and transports == {"udp"}:
        raise ConfigurationError(
            "syslog over UDP cannot be required, because nobody notices when a message is lost",
            remedy="use syslog+tcp:// or syslog+tls://, or add such a server; or require another sink",
        )
    for target in args.audit_to:
        origin = target, args.audit_syslog_ca
        found[origin] = earlier.get(origin) or _make_sink(target, args)
    return found


def _make_file_sink(args: argparse.Namespace) -> Sink:
    from ..audit.directory import AuditDirectory  # imported here, like the sinks, because most programs have none
    from ..audit.disk import Disk
    from ..audit.sinks.files import FileSink

    directory = AuditDirectory(
        Disk(args.audit_dir),
        clock=time.time,
        keep_days=args.audit_keep,
        max_total=args.audit_max_bytes or None,
    )
    return FileSink(directory, str(args.audit_dir))


def _make_sink(target: AuditTarget, args: argparse.Namespace) -> Sink:
    match target.kind:
        case "journal":
            from ..audit.sinks.journal import JournalSink

            return JournalSink()
        case "eventlog":
            from ..audit.sinks.event_log import EventLogSink

            return EventLogSink()
        case "syslog":
            from ..audit.sinks.syslog import SyslogSink, SyslogTransport
            from ..security.pem_files import load_authorities

            transports: dict[str, SyslogTransport] = {"udp": "udp", "tcp": "tcp", "tls": "tls"}
            trust = None if args.audit_syslog_ca is None else partial(load_authorities, ca_file=args.audit_syslog_ca)
            return SyslogSink(transports[target.transport], target.host, target.port, trust=trust)
        case "stderr":
            from ..audit.sinks.standard_error import StandardErrorSink

            return StandardErrorSink(write_error)


@asynccontextmanager
async def audited(audit: ProgramAudit, role: str, events: EventStream) -> AsyncIterator[None]:
    """Record the events of a program during the block, from its start to its end.

    Args:
        audit: the audit log.
        role: ``relay``, ``connector``, ``forward`` or ``run``. A relay itself publishes that it starts.
        events: the program's event stream.

    Raises:
        ConfigurationError, OSError: the audit log cannot be written.
    """
    async with audit.log.opened(events):
        if role != "relay" and audit.log.has_sinks:
            events.publish(ProgramStarted(role=role, version=__version__))
        try:
            yield
        finally:
            if audit.log.has_sinks:
                events.publish(ProgramStopped(role=role))
