"""``hybridrelay connections``: import, issue, list, show, delete."""

from __future__ import annotations

import argparse
import contextlib
import time

from ..._printable import printable
from ...administration import (
    ConnectionInfo,
    RelayDescription,
    delete_connection,
    import_connection,
    issue_connection_string,
    read_relay_record,
)
from ...security import KeySlot, Role, format_ports
from .. import exits, output
from ..key_table import key_table, keys_as_dicts
from ..moved_ports import warn_of_other_ports
from ..relay_access import check_alternatives, describe_access, open_registry
from ..times import utc_text


def run_import(args: argparse.Namespace) -> int:
    """Import a relay file into the registry."""
    record = read_relay_record(args.relay_file)
    with open_registry(args, create=True) as registry:
        relay = registry.relay()
        is_new = import_connection(
            registry,
            record,
            source=str(args.relay_file),
            remedy=f"if the one here was changed later, {args.relay_file} is out of date: delete it; to use what is "
            f"in the file instead, first run: hybridrelay connections delete {record.name} {describe_access(args)}",
            before_change=args.signals.hold,
        )
    if len(record.hosts) > 1:
        advice = f"import {args.relay_file} at those of these relays that do not have it yet, then delete it"
    else:
        advice = f"delete {args.relay_file}"
    if is_new:
        did = f"imported {record.name} (endpoint {', '.join(record.hosts)})"
    else:
        did = f"{record.name} is already here, and is the same as in {args.relay_file}: nothing was changed"
    output.say(f"{did}; {advice}: it contains keys")
    output.say(f"compare this with its connection strings: {_pin_and_ports(relay)}")
    return exits.OK


def run_issue(args: argparse.Namespace) -> int:
    """Issue a further connection string."""
    check_alternatives(args, "state", "key_file", "management")
    role = Role(args.role)
    has_relay = args.state is not None or args.management is not None
    with open_registry(args) if has_relay else contextlib.nullcontext() as registry:
        identity = issue_connection_string(
            args.name,
            role,
            args.label,
            authority_path=args.authority_file,
            out=args.out,
            rule=args.rule,
            slot=KeySlot(args.key),
            key_file=args.key_file,
            local_name=args.local_name,
            registry=registry,
            valid_years=args.valid_years,
            now=time.time(),
        )
        if registry is not None:
            warn_of_other_ports(registry, args.name, args.authority_file)
    end = _date(identity.details.not_after)
    output.say(f"issued {args.out}: {role} of {args.name}, label {identity.label}, valid until {end}")
    output.say(f"serial {identity.serial}")
    return exits.OK


def run_list(args: argparse.Namespace) -> int:
    """List all hybrid connections."""
    with open_registry(args) as registry:
        found = registry.connections()
    if args.json:
        output.say_json([_as_dict(connection) for connection in found])
    elif not found:
        output.say("there are no hybrid connections yet: see hybridrelay connections create --help")
    else:
        rows = [
            (
                one.name,
                ", ".join(one.hosts),
                ", ".join(rule.name for rule in one.rules),
                _date(one.created_at) + (" (disabled)" if one.disabled else ""),
            )
            for one in found
        ]
        output.say(output.table(("NAME", "ENDPOINT", "RULES", "CREATED"), rows))
    return exits.OK


def run_show(args: argparse.Namespace) -> int:
    """Show a hybrid connection."""
    with open_registry(args) as registry:
        connection, relay = registry.connection(args.name), registry.relay()
    if args.json:
        output.say_json({**_as_dict(connection), "relay_pin": relay.pin, "public_ports": relay.ports})
        return exits.OK
    heading = f"{connection.name}: endpoint {', '.join(connection.hosts)}, created {_date(connection.created_at)}"
    output.say(printable(heading))
    output.say(_pin_and_ports(relay))
    if connection.disabled:
        output.say("disabled: the relay refuses all requests for it until 'connections enable'")
    output.say()
    output.say(key_table(connection))
    return exits.OK


def run_delete(args: argparse.Namespace) -> int:
    """Delete a hybrid connection."""
    with open_registry(args) as registry:
        delete_connection(registry, args.name, before_change=args.signals.hold)
    output.say(f"deleted {args.name}: its connection strings no longer work")
    return exits.OK


def _as_dict(connection: ConnectionInfo) -> dict[str, object]:
    """Convert for JSON output. Later versions may add members, but remove or rename none."""
    return {
        "name": connection.name,
        "endpoint": connection.hosts[0],
        "endpoints": connection.hosts,
        "created": _date(connection.created_at),
        "disabled": connection.disabled,
        "keys": keys_as_dicts(connection),
    }


def _date(seconds: float) -> str:
    return utc_text(seconds)


def _pin_and_ports(relay: RelayDescription) -> str:
    return (
        f"relay pin {relay.pin or '(none yet: start the relay)'}, ports {format_ports(relay.ports) or 'the defaults'}"
    )
