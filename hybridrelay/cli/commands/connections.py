"""``hybridrelay connections``: create, import, issue, endpoints, target, list, show, delete."""

from __future__ import annotations

import argparse
import datetime as dt
import time
from functools import partial
from typing import TYPE_CHECKING

from .. import exits, output, values
from ..parser import Subparsers, add_command, add_commands
from .creation import add_create, add_years
from .endpoints import add_endpoints
from .target import add_target

if TYPE_CHECKING:
    from ...administration import RelayDescription
    from ...relay import HybridConnection

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
    from ...administration import describe_relay, import_connection, read_relay_record
    from ...relay import SQLiteStore

    record = read_relay_record(args.relay_file)
    with SQLiteStore.open(args.state) as store:
        relay = describe_relay(args.state)
        is_new = import_connection(
            store,
            record,
            source=str(args.relay_file),
            remedy=f"if the one here was changed since, {args.relay_file} is out of date: delete it; to have what is "
            f"in it instead, first run: hybridrelay connections delete {record.name} --state {args.state}",
            before_change=args.signals.hold,
        )
    if len(record.hosts) > 1:
        advice = f"import {args.relay_file} at each of these relays, then delete it"
    else:
        advice = f"delete {args.relay_file}"
    if is_new:
        did = f"imported {record.name} (endpoint {', '.join(record.hosts)})"
    else:
        did = f"{record.name} is here already, just as in {args.relay_file}: nothing was changed"
    output.say(f"{did}; {advice}: it holds keys")
    output.say(f"compare with what its connection strings were given: {_pin_and_ports(relay)}")
    return exits.OK


def run_issue(args: argparse.Namespace) -> int:
    """Write a further connection string."""
    from ...administration import issue_connection_string
    from ...relay import SQLiteStore
    from ...security import KeySlot, Role

    role = Role(args.role)
    identity = issue_connection_string(
        args.name,
        role,
        args.label,
        authority_path=args.authority_file,
        out=args.out,
        slot=KeySlot(args.key),
        open_store=None if args.state is None else partial(SQLiteStore.open, args.state, create=False),
        valid_years=args.valid_years,
        now=time.time(),
    )
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
    from ...administration import describe_relay
    from ...relay import SQLiteStore
    from ..key_table import key_rows

    with SQLiteStore.open(args.state, create=False) as store:
        connection = store.get(args.name)
    relay = describe_relay(args.state)
    if args.json:
        output.say_json({**_as_dict(connection), "relay_pin": relay.pin, "public_ports": relay.ports})
        return exits.OK
    output.say(f"{connection.name}: endpoint {', '.join(connection.hosts)}, created {_date(connection.created_at)}")
    output.say(_pin_and_ports(relay))
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


def _pin_and_ports(relay: RelayDescription) -> str:
    from ...security import format_ports

    return (
        f"relay pin {relay.pin or '(none yet: start the relay)'}, ports {format_ports(relay.ports) or 'the defaults'}"
    )
