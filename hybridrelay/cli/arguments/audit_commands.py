"""The arguments of ``hybridrelay audit``."""

from __future__ import annotations

import argparse
import re

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_relay, add_state_or_management

_DESCRIPTION = """\
There are two audit logs.

Relay, connector, forward and run write what happens into tamper-evident files (--audit-dir): every stream, session
and registration, changes of policy and keys. 'verify' checks these files, 'show' and 'export' read them, and 'key'
shows their public key. These four commands need no running program, and work with copies of the directory.
'checkpoints' shows what a relay keeps as a witness of such files.

The relay also records every call of its management API that changes something or shows keys: 'calls' shows this
audit log of the management API.
"""
_CALLS = """\
Show the audit log of a relay's management API, the oldest entry first: every call that changes something or shows
keys, with its caller, address and status, including calls that were refused (401 and 403). The caller of a command
with --state is the user who ran it ('local uid 1000'), whether the relay was running or not.

The relay keeps the latest entries in files of limited size (see docs/management.md), in the directory 'audit' of its
state directory. With --state, they are read from there if the relay is not running.
"""
_CALLS_EXAMPLES = """\
examples:
  hybridrelay audit calls --state /var/lib/hybridrelay
  who has changed keys of orders in the last week:
    hybridrelay audit calls --connection orders --operation regenerateKeys \\
        --since 7d --state /var/lib/hybridrelay
  what the token ci was used for:
    hybridrelay audit calls --caller 'token ci' --state /var/lib/hybridrelay
"""
_VERIFY = """\
Check the files of an audit directory: that no record was changed, removed, inserted or moved, and that each file is
signed with the key that the file before it has named. If something is wrong, the command names the first wrong line,
and ends with exit code 4.

The hashes and signatures prove that nothing was changed since it was signed. To find out whether all files were
replaced by others, give the public key of the log (--key), which 'hybridrelay audit key DIR' shows when the log is
new. To find out whether the end was cut off, or an older copy was restored, give a witness (--witness) that has kept
checkpoints elsewhere. This is either a relay ('relay', with --state or --management), or a file from another place to
which the audit log is written (--audit-to): an export of the journal, the log of a syslog server, or any other text
with lines of the event audit.checkpoint.
"""
_VERIFY_EXAMPLES = """\
examples:
  when the connector runs for the first time; keep the file elsewhere:
    hybridrelay audit key audit > audit.pub
  later:
    hybridrelay audit verify audit --key audit.pub
  together with the journal, if the connector has --audit-to journal:
    journalctl -t hybridrelay-audit -g 'was signed' -o cat > checkpoints
    hybridrelay audit verify audit --key audit.pub \\
        --witness checkpoints
  together with what the relay has kept:
    hybridrelay audit verify audit --key audit.pub \\
        --witness relay --management https://relay.example.com:9180 \\
        --token-file viewer.token
"""
_CHECKPOINTS = """\
Show the checkpoints of audit logs that a relay keeps. Connector, forward and run send them when they write audit
files (--audit-dir), and 'audit verify --witness relay' compares the files with them. The relay has verified that each
checkpoint is signed with the key that it names, but not that this is a key of the log: 'audit verify' does that. A
program sends its checkpoints with the key of the first of its hybrid connections, in alphabetical order.
"""
_CHECKPOINTS_EXAMPLES = """\
examples:
  hybridrelay audit checkpoints --state /var/lib/hybridrelay
  for 'audit verify --witness saved', on a machine that does not reach the
  relay:
    hybridrelay audit checkpoints --state /var/lib/hybridrelay --json > saved
"""
_KEY = """\
Show the public key of the newest file of an audit directory. With this key, 'audit verify --key' can later find out
whether the directory still contains this log, or another one in its place. Keep the key on another machine, where
nobody who can change the directory can change the key.
"""
_SHOW = """\
Show records of an audit directory, the oldest first. They are not checked: use 'hybridrelay audit verify' for that.
"""
_SHOW_EXAMPLES = """\
examples:
  what the application billing has reached in the last day:
    hybridrelay audit show audit --label billing --since 24h
  what was reached on one day (in UTC):
    hybridrelay audit show audit --since 2026-01-31 --until 2026-02-01
  who was refused:
    hybridrelay audit show audit --event stream.not-connected
"""
_EXPORT = """\
Write records of an audit directory to standard output, one in each line, for other systems: as they are (jsonl), as
events of the Open Cybersecurity Schema Framework (ocsf), or in the Common Event Format (cef). They are not checked:
use 'hybridrelay audit verify' for that.
"""
_EXPORT_EXAMPLES = """\
examples:
  hybridrelay audit export audit --format ocsf > events.jsonl
  hybridrelay audit export audit --format cef --since 7d
"""


def _add_calls_arguments(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=values.count,
        default=50,
        help="show at most this many of the latest entries (default: 50)",
    )
    parser.add_argument(
        "--since",
        metavar="TIME",
        type=values.moment,
        help="only entries since then: 30m, 12h or 7d ago, a date (2026-01-31), or a date and time "
        "(2026-01-31T12:00) in UTC",
    )
    parser.add_argument(
        "--caller",
        metavar="C",
        default="",
        help="only callers whose names begin with this text, such as 'local' or 'token ci'",
    )
    parser.add_argument("--operation", metavar="ID", default="", help="only this operation, such as regenerateKeys")
    parser.add_argument(
        "--connection", metavar="NAME", type=values.connection_name, help="only this hybrid connection"
    )
    add_relay(parser, role="viewer", instead="reads the files in the state directory")


def _add_directory(parser: Parser) -> None:
    parser.add_argument("directory", metavar="DIR", type=values.path, help="the directory of --audit-dir, or a copy")


def _add_verify_arguments(parser: Parser) -> None:
    _add_directory(parser)
    parser.add_argument(
        "--key",
        metavar="F",
        type=values.path,
        action="append",
        default=[],
        help="a file with public keys, one in each line; at least one must have signed the files; may be repeated",
    )
    parser.add_argument(
        "--witness",
        metavar="F",
        type=values.path,
        action="append",
        default=[],
        help="what has kept checkpoints: 'relay', or a text file with audit.checkpoint events from another sink "
        "(--audit-to), or with the output of 'audit checkpoints --json'; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    group = parser.add_argument_group("the relay of --witness relay")
    which = group.add_mutually_exclusive_group()
    add_state_or_management(which, group)


def _add_checkpoints_arguments(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON object for each checkpoint, for programs")
    parser.add_argument("--log", metavar="ID", type=log_id, help="only the audit log with this id")
    parser.add_argument(
        "--connection",
        metavar="NAME",
        type=values.connection_name,
        help="only those that were sent with a key of this hybrid connection",
    )
    parser.add_argument(
        "--delete",
        action="store_true",
        help="delete the checkpoints of --log and --connection, for example to make room; only while the relay runs; "
        "needs an admin's token",
    )
    add_relay(parser, role="viewer", instead="reads the file in the state directory")


def log_id(text: str) -> str:
    """Parse the id of an audit log."""
    if not re.fullmatch(r"[0-9a-f]{16}", text):
        raise argparse.ArgumentTypeError("expected the id of an audit log: 16 hexadecimal digits")
    return text


def _add_filter(parser: Parser) -> None:
    parser.add_argument(
        "--since",
        metavar="TIME",
        type=values.moment,
        help="only records since then: 30m, 12h or 7d ago, a date (2026-01-31), or a date and time "
        "(2026-01-31T12:00) in UTC",
    )
    parser.add_argument(
        "--until", metavar="TIME", type=values.moment, help="only records before then, in the same forms"
    )
    parser.add_argument("--label", metavar="L", default="", help="only identities with this label")
    parser.add_argument(
        "--target",
        metavar="T",
        default="",
        help="only this target: a host, or a target as in the records: db:5432, dns:53/udp, unix:/path",
    )
    parser.add_argument(
        "--connection", metavar="NAME", type=values.connection_name, help="only this hybrid connection"
    )
    parser.add_argument(
        "--event", metavar="E", default="", help="only this event, such as stream.closed, or its first word: stream"
    )


def _add_show_arguments(parser: Parser) -> None:
    _add_directory(parser)
    _add_filter(parser)
    parser.add_argument(
        "--limit",
        metavar="N",
        type=values.count,
        default=50,
        help="show at most this many of the latest records (default: 50)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each record, for programs")


def _add_export_arguments(parser: Parser) -> None:
    _add_directory(parser)
    parser.add_argument(
        "--format", metavar="F", choices=["jsonl", "ocsf", "cef"], required=True, help="jsonl, ocsf or cef"
    )
    _add_filter(parser)


COMMAND = Command(
    "audit",
    "check and show audit logs: what was reached, and who has administered a relay",
    _DESCRIPTION,
    "each command has its own --help:\n  hybridrelay audit verify --help\n",
    subcommands=(
        Command(
            "verify",
            "check tamper-evident audit files",
            _VERIFY,
            _VERIFY_EXAMPLES,
            _add_verify_arguments,
            run="audit_files:run_verify",
        ),
        Command(
            "key",
            "show the public key of audit files",
            _KEY,
            "example:\n  hybridrelay audit key /var/lib/hybridrelay-connector/audit > audit.pub\n",
            _add_directory,
            run="audit_files:run_key",
        ),
        Command(
            "show",
            "show records of audit files",
            _SHOW,
            _SHOW_EXAMPLES,
            _add_show_arguments,
            run="audit_files:run_show",
        ),
        Command(
            "export",
            "write records of audit files in other formats",
            _EXPORT,
            _EXPORT_EXAMPLES,
            _add_export_arguments,
            run="audit_files:run_export",
        ),
        Command(
            "checkpoints",
            "show the checkpoints of audit logs that a relay keeps as a witness",
            _CHECKPOINTS,
            _CHECKPOINTS_EXAMPLES,
            _add_checkpoints_arguments,
            run="audit_checkpoints:run",
        ),
        Command(
            "calls",
            "show who has administered a relay: the audit log of its management API",
            _CALLS,
            _CALLS_EXAMPLES,
            _add_calls_arguments,
            run="audit_calls:run",
        ),
    ),
)
