"""``hybridrelay connections``: import, issue, list, show, delete."""

from __future__ import annotations

import argparse
import datetime as dt
import time
from functools import partial

from ...administration import (
    RelayDescription,
    describe_relay,
    import_connection,
    issue_connection_string,
    read_relay_record,
)
from ...relay import HybridConnection, SQLiteStore
from ...security import KeySlot, Role, format_ports
from .. import exits, output
from ..key_table import key_rows, keys_as_dicts


def run_import(args: argparse.Namespace) -> int:
    """Import a relay file into the registry."""
    record = read_relay_record(args.relay_file)
    with SQLiteStore.open(args.state) as store:
        relay = describe_relay(args.state)
        is_new = import_connection(
            store,
            record,
            source=str(args.relay_file),
            remedy=f"if the one here was changed later, {args.relay_file} is out of date: delete it; to use what is "
            f"in the file instead, first run: hybridrelay connections delete {record.name} --state {args.state}",
            before_change=args.signals.hold,
        )
    if len(record.hosts) > 1:
        advice = f"import {args.relay_file} at those of these relays that do not have it yet, then delete it"
    else:
        advice = f"delete {args.relay_file}"
    if is_new:
        did = f"imported {record.name} (endpoint {', '.join(record.hosts)})"
    else:
        did = f"{record.name} is here already, and is the same as in {args.relay_file}: nothing was changed"
    output.say(f"{did}; {advice}: it contains keys")
    output.say(f"compare this with its connection strings: {_pin_and_ports(relay)}")
    return exits.OK


def run_issue(args: argparse.Namespace) -> int:
    """Write a further connection string."""
    role = Role(args.role)
    identity = issue_connection_string(
        args.name,
        role,
        args.label,
        authority_path=args.authority_file,
        out=args.out,
        rule=args.rule,
        slot=KeySlot(args.key),
        key_file=args.key_file,
        open_store=None if args.state is None else partial(SQLiteStore.open, args.state, create=False),
        valid_years=args.valid_years,
        now=time.time(),
    )
    end = _date(identity.details.not_after)
    output.say(f"issued {args.out}: {role} of {args.name}, label {identity.label}, valid until {end}")
    output.say(f"serial {identity.serial}")
    return exits.OK


def run_list(args: argparse.Namespace) -> int:
    """List all hybrid connections."""
    with SQLiteStore.open(args.state, create=False) as store:
        found = store.list()
    if args.json:
        output.say_json([_as_dict(connection) for connection in found])
    elif not found:
        output.say("there are none yet: see hybridrelay connections create --help")
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
    with SQLiteStore.open(args.state, create=False) as store:
        connection = store.get(args.name)
    relay = describe_relay(args.state)
    if args.json:
        output.say_json({**_as_dict(connection), "relay_pin": relay.pin, "public_ports": relay.ports})
        return exits.OK
    output.say(f"{connection.name}: endpoint {', '.join(connection.hosts)}, created {_date(connection.created_at)}")
    output.say(_pin_and_ports(relay))
    if connection.disabled:
        output.say("disabled: the relay refuses everything for it until 'connections enable'")
    output.say()
    output.say(output.table(("RULE", "RIGHTS", "KEY", "FINGERPRINT"), key_rows(connection)))
    return exits.OK


def run_delete(args: argparse.Namespace) -> int:
    """Delete a hybrid connection."""
    with SQLiteStore.open(args.state, create=False) as store:
        args.signals.hold()
        store.delete(args.name)
    output.say(f"deleted {args.name}: its connection strings no longer work")
    return exits.OK


def _as_dict(connection: HybridConnection) -> dict[str, object]:
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
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _pin_and_ports(relay: RelayDescription) -> str:
    return (
        f"relay pin {relay.pin or '(none yet: start the relay)'}, ports {format_ports(relay.ports) or 'the defaults'}"
    )
