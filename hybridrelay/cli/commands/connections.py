"""``hybridrelay connections``: create, import, issue, endpoints, target, list, show, delete."""

from __future__ import annotations

import argparse
import datetime as dt
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .. import exits, output, values
from ..parser import Subparsers, add_command, add_commands
from .creation import add_create, add_years
from .endpoints import add_endpoints
from .target import add_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...errors import ConfigurationError
    from ...relay import HybridConnection, RelayRecord

_IMPORT = """\
Register a hybrid connection that was created with --relay-file at the relay; if it has several relays, at each of
them. A running relay serves it within a second. Delete the relay file afterwards: it holds keys. Importing the same
file again changes nothing; a different hybrid connection of the same name is refused.
"""
_ISSUE = """\
Issue a further connection string: for another application (with its own label in the connector's audit log, so that
it can be shut out separately), for a second connector, or before an identity expires. Needs only the authority file;
neither the relay nor the connector has to be changed.

The string carries the rule's primary key, or with --key the secondary one, as the authority file has it. If that
file may be out of date, --state takes the key from the relay.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    group = add_command(
        subparsers,
        "connections",
        "create, import, issue, change, list, show or delete hybrid connections",
        "Hybrid connections: create them, import them at a relay, issue further connection strings, change "
        "their relays or "
        "their target.",
        "each of them has its own --help:\n  hybridrelay connections create --help\n",
    )
    below = add_commands(group, "subcommand")
    add_create(below)
    _add_import(below)
    _add_issue(below)
    add_endpoints(below)
    add_target(below)
    listing = add_command(
        below,
        "list",
        "list the hybrid connections of a relay",
        "List the hybrid connections of a relay.",
        "example:\n  hybridrelay connections list --state /var/lib/hybridrelay\n",
    )
    showing = add_command(
        below,
        "show",
        "show one, without its keys",
        "Show a hybrid connection: its rules and which of their keys are valid; the relay's pin and ports.",
        "example:\n  hybridrelay connections show orders --state /var/lib/hybridrelay\n",
    )
    deleting = add_command(
        below,
        "delete",
        "delete one, and end everything that uses it",
        "Delete a hybrid connection. A running relay ends within a second what it had authorized.",
        "example:\n  hybridrelay connections delete orders --state /var/lib/hybridrelay\n",
    )
    for parser, run in ((listing, run_list), (showing, run_show), (deleting, run_delete)):
        if parser is not listing:
            parser.add_argument("name", metavar="NAME", type=values.connection_name, help="the hybrid connection")
        if parser is not deleting:
            parser.add_argument("--json", action="store_true", help="JSON for programs")
        add_state(parser)
        parser.set_defaults(run=run, default_log_level="warning")


def add_state(parser: argparse.ArgumentParser) -> None:
    """Add ``--state``."""
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=values.path,
        required=True,
        help="the relay's state directory; only its owner may use it",
    )


def _add_import(below: Subparsers) -> None:
    example = "example:\n  hybridrelay connections import orders.relay --state /var/lib/hybridrelay\n"
    parser = add_command(below, "import", "import one at the relay", _IMPORT, example)
    parser.add_argument("relay_file", metavar="RELAY-FILE", type=values.path, help="written by 'connections create'")
    add_state(parser)
    parser.set_defaults(run=run_import, default_log_level="warning")


def _add_issue(below: Subparsers) -> None:
    example = (
        "example:\n  hybridrelay connections issue orders --role application --label reporting \\\n"
        "      --authority-file orders.authority --out reporting.application\n"
    )
    parser = add_command(below, "issue", "issue a further connection string", _ISSUE, example)
    parser.add_argument("name", metavar="NAME", type=values.connection_name, help="the hybrid connection")
    parser.add_argument(
        "--role", choices=("application", "connector"), required=True, help="which side the string is for"
    )
    parser.add_argument(
        "--label", metavar="L", type=values.label, required=True, help="its name in the connector's audit log"
    )
    parser.add_argument(
        "--authority-file", metavar="F", type=values.path, required=True, help="of this hybrid connection"
    )
    parser.add_argument("--out", metavar="F", type=values.path, required=True, help="to be written")
    parser.add_argument(
        "--key",
        choices=("primary", "secondary"),
        default="primary",
        help="which of the rule's two keys (default: primary)",
    )
    parser.add_argument("--state", metavar="DIR", type=values.path, help="take the key from this relay")
    add_years(parser)
    parser.set_defaults(run=run_issue, default_log_level="warning")


def run_import(args: argparse.Namespace) -> int:
    """Bring a relay file into the registry."""
    from ..._text_files import read_text
    from ...relay import SQLiteStore, parse_relay_record_untrusted
    from ...relay.limits import RELAY_RECORD_BYTES
    from ...security.loading import naming

    text = read_text(args.relay_file, what="the relay file", limit=RELAY_RECORD_BYTES, secret=True)
    with naming(args.relay_file):
        record = parse_relay_record_untrusted(text)
    with SQLiteStore.open(args.state) as registry:
        compare = _pin_and_ports(args.state)
        known = registry.snapshot().get(record.name)
        if known is None:
            args.signals.hold()
            registry.import_(record)
        elif differences := known.differences(record):
            raise _differs(args, record, differences)
    if len(record.hosts) > 1:
        advice = f"import {args.relay_file} at each of these relays, then delete it"
    else:
        advice = f"delete {args.relay_file}"
    if known is None:
        did = f"imported {record.name} (endpoint {', '.join(record.hosts)})"
    else:
        did = f"{record.name} is here already, just as in {args.relay_file}: nothing was changed"
    output.say(f"{did}; {advice}: it holds keys")
    output.say(f"compare with what its connection strings were given: {compare}")
    return exits.OK


def _differs(args: argparse.Namespace, record: RelayRecord, differences: Sequence[str]) -> ConfigurationError:
    from ...errors import ConfigurationError

    if tuple(differences) == ("endpoint",):
        remedy = "see 'hybridrelay connections endpoints --help', which changes its relays and keeps its keys"
    else:
        remedy = (
            f"if the one here was changed since, {args.relay_file} is out of date: delete it; to have what is in it "
            f"instead, first run: hybridrelay connections delete {record.name} --state {args.state}"
        )
    return ConfigurationError(
        f"there is a hybrid connection {record.name!r} here already, and it is not the same as in {args.relay_file} "
        f"({', '.join(differences)}); nothing was changed",
        remedy=remedy,
    )


def run_issue(args: argparse.Namespace) -> int:
    """Write a further connection string."""
    from ..._text_files import read_text
    from ...errors import ConfigurationError
    from ...relay import SQLiteStore
    from ...security import AuthorityFile, KeySlot, Role
    from ...security.authority_file import MAX_AUTHORITY_FILE
    from ...security.loading import naming
    from ..files import check_new_files, new_files
    from ..provisioning import issue_string, rule_of

    check_new_files([args.out])
    text = read_text(args.authority_file, what="the authority file", limit=MAX_AUTHORITY_FILE, secret=True)
    with naming(args.authority_file):
        authority_file = AuthorityFile.parse_untrusted(text)
    if (owner := authority_file.authority.connection_name) != args.name:
        raise ConfigurationError(f"{args.authority_file} is the authority of {owner}, not of {args.name}")
    role = Role(args.role)
    known = None
    with naming(args.authority_file):
        rule = rule_of(authority_file, role)
    if args.state is not None:
        with SQLiteStore.open(args.state, create=False) as registry:
            known = registry.rule(args.name, rule.name)
    with naming(args.authority_file):
        string = issue_string(
            authority_file,
            role,
            args.label,
            now=time.time(),
            valid_years=args.valid_years,
            slot=KeySlot(args.key),
            known=known,
        )
    with new_files({args.out: string.format() + "\n"}):
        pass
    identity, _ = string.require_identity()
    end = _date(identity.details.not_after)
    output.say(f"issued {args.out}: {role} of {args.name}, label {identity.label}, valid until {end}")
    output.say(f"serial {identity.serial}")
    return exits.OK


def run_list(args: argparse.Namespace) -> int:
    """List all."""
    from ...relay import SQLiteStore

    with SQLiteStore.open(args.state, create=False) as registry:
        found = registry.list()
    if args.json:
        output.say_json([_as_dict(connection) for connection in found])
    elif not found:
        output.say("none yet: hybridrelay connections create --help")
    else:
        rows = [
            (one.name, ", ".join(one.hosts), ", ".join(rule.name for rule in one.rules), _date(one.created_at))
            for one in found
        ]
        output.say(output.table(("NAME", "ENDPOINT", "RULES", "CREATED"), rows))
    return exits.OK


def run_show(args: argparse.Namespace) -> int:
    """Show one."""
    from ...relay import SQLiteStore, load_public_ports
    from ..key_table import key_rows

    with SQLiteStore.open(args.state, create=False) as registry:
        connection = registry.get(args.name)
    if args.json:
        output.say_json(
            {
                **_as_dict(connection),
                "relay_pin": _maybe_pin(args.state),
                "public_ports": load_public_ports(args.state),
            }
        )
        return exits.OK
    output.say(f"{connection.name}: endpoint {', '.join(connection.hosts)}, created {_date(connection.created_at)}")
    output.say(_pin_and_ports(args.state))
    output.say()
    output.say(output.table(("RULE", "RIGHTS", "KEY", "FINGERPRINT"), key_rows(connection)))
    return exits.OK


def run_delete(args: argparse.Namespace) -> int:
    """Delete one."""
    from ...relay import SQLiteStore

    with SQLiteStore.open(args.state, create=False) as registry:
        args.signals.hold()
        registry.delete(args.name)
    output.say(f"deleted {args.name}: its connection strings no longer work")
    return exits.OK


def _as_dict(connection: HybridConnection) -> dict[str, object]:
    """For JSON. Keys are only ever added."""
    from ..key_table import keys_as_dicts

    return {
        "name": connection.name,
        "endpoint": connection.hosts[0],
        "endpoints": connection.hosts,
        "created": _date(connection.created_at),
        "keys": keys_as_dicts(connection),
    }


def _date(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _maybe_pin(state: Path) -> str | None:
    """The relay's pin, or None where no relay has run with this directory yet."""
    from ...security import relay_pin

    certificate = state / "relay.pem"
    return relay_pin(certificate) if certificate.exists() else None


def _pin_and_ports(state: Path) -> str:
    from ...relay import load_public_ports
    from ...security import format_ports

    ports = load_public_ports(state)
    pin = _maybe_pin(state)
    return f"relay pin {pin or '(none yet: start the relay)'}, ports {format_ports(ports) or 'the defaults'}"
