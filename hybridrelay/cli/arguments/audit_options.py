"""The options that say where a program writes its audit log."""

from __future__ import annotations

import argparse
import re
from typing import Final, Literal, NamedTuple

from . import values

__all__ = ["AuditTarget", "add_audit"]

#: The smallest size that a directory may be limited to (bytes). A file then ends at 8 MB.
_MIN_DIRECTORY: Final = 64_000_000
#: The default of this size: room for about 60 million compressed records.
_DEFAULT_DIRECTORY: Final = 4_000_000_000

_SYSLOG: Final = re.compile(r"syslog\+(udp|tcp|tls)://(.+)")
#: The port of each transport of syslog.
_PORTS: Final = {"udp": 514, "tcp": 601, "tls": 6514}
_FORM: Final = "expected journal, stderr, eventlog, or syslog+tls://HOST[:PORT] (also syslog+tcp, syslog+udp)"


class AuditTarget(NamedTuple):
    """A value of ``--audit-to``."""

    kind: Literal["journal", "stderr", "eventlog", "syslog"]
    #: For syslog: ``udp``, ``tcp`` or ``tls``, and the server.
    transport: str = ""
    host: str = ""
    port: int = 0


def audit_target(text: str) -> AuditTarget:
    """Parse a value of ``--audit-to``."""
    match text:
        case "journal" | "stderr" | "eventlog":
            return AuditTarget(text)
    found = _SYSLOG.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(_FORM)
    transport, server = found.groups()
    host, port = _server(server.removesuffix("/"), _PORTS[transport])
    return AuditTarget("syslog", transport, host, port)


def _server(text: str, default: int) -> tuple[str, int]:
    problem = argparse.ArgumentTypeError(f"{_FORM}: {text!r} is not a host name or address with an optional port")
    has_port = ":" in text.rpartition("]")[2]
    try:
        host, port = values.listen_address(text) if has_port else (values.host(text), default)
    except argparse.ArgumentTypeError:
        raise problem from None
    if port == 0:
        raise problem
    return host, port


def directory_size(text: str) -> int:
    """Parse a value of ``--audit-max-bytes``. ``none`` is returned as 0."""
    size = values.size_or_none(text)
    if 0 < size < _MIN_DIRECTORY:
        raise argparse.ArgumentTypeError("expected at least 64MB, or none")
    return size


def add_audit(parser: argparse.ArgumentParser, *, may_require: bool = False) -> None:
    """Add the options of the audit log. `may_require`: also ``--audit-required``."""
    parser.add_argument(
        "--audit-dir",
        metavar="DIR",
        type=values.path,
        help="write the audit log to tamper-evident files in this directory, which belongs to this program alone; it "
        "is created (mode 0700) in a directory that exists; 'hybridrelay audit verify DIR' checks them",
    )
    parser.add_argument(
        "--audit-keep",
        metavar="N",
        type=values.count,
        default=400,
        help="delete files of --audit-dir N days after their last record (default: %(default)s)",
    )
    parser.add_argument(
        "--audit-max-bytes",
        metavar="SIZE",
        type=directory_size,
        default=_DEFAULT_DIRECTORY,
        help="the maximum size of --audit-dir, such as 500MB or 20GB; when it is reached, the oldest files are "
        "deleted, and a signed record says which; at least 64MB, or none (default: 4GB)",
    )
    parser.add_argument(
        "--audit-to",
        metavar="SINK",
        type=audit_target,
        action="append",
        default=[],
        help="write the audit log to this sink: journal (of systemd), syslog+tls://HOST[:PORT], syslog+tcp://... or "
        "syslog+udp://... (RFC 5424), eventlog (Windows), or stderr (a JSON object in each line); may be repeated",
    )
    parser.add_argument(
        "--audit-syslog-ca",
        metavar="F",
        type=values.path,
        help="a PEM file with the CA that issues the certificates of syslog+tls servers (default: the CAs of the "
        "system)",
    )
    if may_require:
        parser.add_argument(
            "--audit-required",
            metavar="KIND",
            choices=["file", "journal", "syslog", "eventlog"],
            action="append",
            default=[],
            help="refuse new streams while the audit log cannot be written to this sink: file (--audit-dir), "
            "journal, syslog (tcp or tls) or eventlog; may be repeated",
        )
