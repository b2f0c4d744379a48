"""The audit log of relay, connector and forward, according to their options."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .._version import __version__
from ..errors import ConfigurationError
from ..events.program import ProgramStarted, ProgramStopped
from ..events.stream import EventStream
from .logs import write_error

if TYPE_CHECKING:
    from ..audit import AuditTrail
    from ..audit.sinks.sink import Sink
    from .arguments.audit_options import AuditTarget

__all__ = ["audited", "make_audit"]


def make_audit(args: argparse.Namespace) -> AuditTrail | None:
    """Make the audit log if an option requests it. It has to be opened by `audited`.

    Raises:
        ConfigurationError: options do not fit together.
    """
    required = getattr(args, "audit_required", [])
    if args.audit_dir is None and not args.audit_to:
        if required:
            raise ConfigurationError("--audit-required needs --audit-dir or --audit-to", remedy="add one of them")
        return None
    from ..audit import AuditTrail  # imported here, like the sinks, because most programs have none
    from ..audit.sinks.sink import SinkKind

    sinks: list[Sink] = []
    if args.audit_dir is not None:
        from ..audit.directory import AuditDirectory
        from ..audit.disk import Disk
        from ..audit.sinks.files import FileSink

        directory = AuditDirectory(
            Disk(args.audit_dir),
            clock=time.time,
            keep_days=args.audit_keep,
            max_total=args.audit_max_bytes or None,
        )
        sinks.append(FileSink(directory, str(args.audit_dir)))
    for target in dict.fromkeys(args.audit_to):
        if target.transport == "udp" and "syslog" in required:
            raise ConfigurationError(
                "syslog over UDP cannot be required, because nobody notices when a message is lost",
                remedy="use syslog+tcp:// or syslog+tls://, or require another sink",
            )
        sinks.append(_make_sink(target, args))
    return AuditTrail(sinks, required=[SinkKind(one) for one in required])


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

            transports: dict[str, SyslogTransport] = {"udp": "udp", "tcp": "tcp", "tls": "tls"}
            ca_file = None if args.audit_syslog_ca is None else str(args.audit_syslog_ca)
            return SyslogSink(transports[target.transport], target.host, target.port, ca_file=ca_file)
        case "stderr":
            from ..audit.sinks.standard_error import StandardErrorSink

            # The same is not to be there twice, as JSON and as a line of the log.
            logging.getLogger("hybridrelay.audit").disabled = True
            return StandardErrorSink(write_error)


@asynccontextmanager
async def audited(audit: AuditTrail | None, role: str, events: EventStream) -> AsyncIterator[None]:
    """Record the events of a program during the block, from its start to its end.

    Args:
        audit: the audit log; None: nothing is recorded.
        role: ``relay``, ``connector`` or ``forward``. A relay itself publishes that it starts.
        events: the program's event stream.

    Raises:
        ConfigurationError, OSError: the audit log cannot be written.
    """
    if audit is None:
        yield
        return
    async with audit.opened(events):
        if role != "relay":
            events.publish(ProgramStarted(role=role, version=__version__))
        try:
            yield
        finally:
            events.publish(ProgramStopped(role=role))
