"""``hybridrelay connections``: create, import, issue, list, show, delete."""

from __future__ import annotations

import argparse
import datetime as dt
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import exits, output, values
from ..parser import Subparsers, add_command

if TYPE_CHECKING:
    from ...relay import HybridConnection

_CREATE = """\
Create a hybrid connection: a name, and the one host:port that it leads to.

Writes three files of mode 0600, none over an existing one:
  connector file     a connection string for the connector, with the target
  application file   a connection string for the client
  authority file     for you alone: whoever has it can issue further
                     identities ('connections issue')

There are two ways to tell the relay:
  --relay-file F   on the administrator's machine: F is what the relay needs
                   (name, rules, keys; no authority). Bring it there, and run
                   'connections import F --state DIR'. The relay never sees
                   the authority, so not even its owner can pose as one side
                   to the other.
  --state DIR      on the relay's machine, with the relay's state directory:
                   one step instead of two. But then the authority was made
                   there: move its file to your own machine, leave no copy.

Several relays (--endpoint for each, at most 8, first choice first) make the
relay redundant. The connector registers at all of them; a client takes the
first that works, and its open connections live on when that one dies. Give
the --relay-pin of each, and import the relay file at each.
"""
_CREATE_EXAMPLES = """\
examples:
  on the administrator's machine (the pin stands in the relay's ready line):
    hybridrelay connections create orders \\
      --target db.internal:5432 --endpoint relay.example.com \\
      --connector-file orders.connector --application-file orders.application \\
      --relay-file orders.relay --relay-pin sha256:...
  all on the relay's machine:
    hybridrelay connections create orders \\
      --target [fd00::5]:5432 --endpoint relay.example.com \\
      --connector-file orders.connector --application-file orders.application \\
      --state /var/lib/hybridrelay
  two relays, of which the second serves http on 8080 and has no port probe:
    hybridrelay connections create orders --target db.internal:5432 \\
      --endpoint a.example.com --relay-pin sha256:... --public-ports '' \\
      --endpoint b.example.com --relay-pin sha256:... \\
      --public-ports http=8080,probe=off \\
      --connector-file orders.connector --application-file orders.application \\
      --relay-file orders.relay
"""
_IMPORT = """\
Bring a hybrid connection that was created with --relay-file to the relay; one with several relays, to each of them. A
running relay serves it within a second. Delete the relay file afterwards: it holds keys.
"""
_ISSUE = """\
Issue a further connection string: for another application (with a label of its own in the connector's audit log, so
that it can be shut out alone), for a second connector, or before an identity expires. Needs the authority file and
nothing else; neither relay nor connector has to be told.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    group = add_command(
        subparsers,
        "connections",
        "create, import, issue, list, show or delete hybrid connections",
        "Hybrid connections: create them, bring them to the relay, issue further connection strings.",
        "each of them has its own --help:\n  hybridrelay connections create --help\n",
    )
    below: Any = group.add_subparsers(title="commands", metavar="COMMAND", dest="subcommand", required=True)
    _add_create(below)
    _add_import(below)
    _add_issue(below)
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
        "delete one, and end all that runs through it",
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


def _add_years(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--valid-years", metavar="N", type=values.years, default=10.0, help="how long it is valid (default: 10)"
    )


def _add_create(below: Subparsers) -> None:
    parser = add_command(below, "create", "create one, and write its files", _CREATE, _CREATE_EXAMPLES)
    parser.add_argument("name", metavar="NAME", type=values.connection_name, help="what it is to be called")
    parser.add_argument(
        "--target",
        metavar="HOST:PORT",
        type=values.target,
        required=True,
        help="what the connector dials; IPv6 as [::1]:5432",
    )
    parser.add_argument(
        "--endpoint",
        metavar="HOST",
        dest="endpoints",
        type=values.host,
        action="append",
        required=True,
        help="the relay, as client and connector reach it; give it again for each further relay",
    )
    parser.add_argument("--connector-file", metavar="F", type=values.path, required=True, help="to be written")
    parser.add_argument("--application-file", metavar="F", type=values.path, required=True, help="to be written")
    parser.add_argument(
        "--authority-file",
        metavar="F",
        type=values.path,
        help="to be written (default: NAME.authority beside the connector file)",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--state", metavar="DIR", type=values.path, help="the state directory of the relay here")
    where.add_argument("--relay-file", metavar="F", type=values.path, help="to be written, for the relay elsewhere")
    parser.add_argument(
        "--relay-pin",
        metavar="PIN",
        type=values.pin,
        action="append",
        help="with --relay-file: the relay's pin; several are possible, and any of them is right for any of the "
        "relays; without any, the relay needs a certificate that a CA vouches for",
    )
    parser.add_argument(
        "--public-ports",
        metavar="PORTS",
        type=values.public_ports,
        action="append",
        help="the relay's ports that are not the defaults, such as http=8080,probe=off; with several relays once for "
        "all of them, or once for each --endpoint in the same order ('' for the defaults) "
        "(default: with --state what the relay has left there, with --relay-file the usual ones)",
    )
    _add_years(parser)
    parser.set_defaults(run=run_create, default_log_level="warning")


def _add_import(below: Subparsers) -> None:
    example = "example:\n  hybridrelay connections import orders.relay --state /var/lib/hybridrelay\n"
    parser = add_command(below, "import", "bring one to the relay", _IMPORT, example)
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
    parser.add_argument("--role", choices=("application", "connector"), required=True, help="whose string it is")
    parser.add_argument(
        "--label", metavar="L", type=values.label, required=True, help="its name in the connector's audit log"
    )
    parser.add_argument("--authority-file", metavar="F", type=values.path, required=True, help="of this connection")
    parser.add_argument("--out", metavar="F", type=values.path, required=True, help="to be written")
    _add_years(parser)
    parser.set_defaults(run=run_issue, default_log_level="warning")


def run_create(args: argparse.Namespace) -> int:
    """Create a hybrid connection."""
    from ...errors import ConfigurationError
    from ...relay import Registry, dump_relay_record, load_public_ports
    from ...security import load_or_create_relay_certificate, pair_endpoints, relay_pin
    from ..files import check_new_files, new_files
    from ..provisioning import provision

    name, state = args.name, args.state
    if state is not None and args.relay_pin:
        raise ConfigurationError(
            "--relay-pin is for --relay-file: the state directory has the relay's own pin", remedy="leave it out"
        )
    if state is not None and len(args.endpoints) > 1:
        raise ConfigurationError(
            "--state is for a hybrid connection with one relay: the others have to be told as well",
            remedy="write a --relay-file, and import it at each of the relays",
        )
    authority = args.authority_file or args.connector_file.with_name(f"{name.replace('/', '-')}.authority")
    paths: list[Path] = [args.connector_file, args.application_file, authority]
    check_new_files([*paths, args.relay_file] if args.relay_file else paths)
    pins, ports, now = tuple(args.relay_pin or ()), args.public_ports or (), time.time()
    if state is not None:
        with Registry.open(state):
            pins = (relay_pin(load_or_create_relay_certificate(state, now=now)),)
        ports = ports or (load_public_ports(state),)
    try:
        endpoints = pair_endpoints(args.endpoints, ports)
    except ValueError as exc:
        raise ConfigurationError(str(exc), remedy="see --public-ports in --help") from None
    made = provision(name, target=args.target, endpoints=endpoints, pins=pins, now=now, valid_years=args.valid_years)
    texts = (made.connector.format() + "\n", made.application.format() + "\n", made.authority_file.format())
    contents = dict(zip(paths, texts, strict=True))
    if state is not None:
        with Registry.open(state) as registry, new_files(contents):
            registry.import_(made.record)
    else:
        with new_files({**contents, args.relay_file: dump_relay_record(made.record)}):
            pass
    _tell_created(args, authority, pins=len(pins))
    return exits.OK


def _tell_created(args: argparse.Namespace, authority: Path, *, pins: int) -> None:
    relays = f"relay{'s' if len(args.endpoints) > 1 else ''} {', '.join(args.endpoints)}"
    output.say(f"created {args.name}: target {args.target}, {relays}")
    rows = [
        ("connector file", str(args.connector_file), "bring it to the connector, in the private network"),
        ("application file", str(args.application_file), "bring it to the client, beside the application"),
        ("authority file", str(authority), "keep it to yourself; issues further identities"),
    ]
    if args.relay_file:
        where = "the relay" if len(args.endpoints) == 1 else "each relay"
        advice = f"bring it to {where}: hybridrelay connections import; then delete it"
        rows.append(("relay file", str(args.relay_file), advice))
    output.say(output.table(("FILE", "PATH", "WHAT TO DO WITH IT"), rows))
    output.say()
    if args.state is not None:
        output.say(
            "Trust: the authority was made on the relay's machine. Until its file is moved away, whoever\n"
            "controls this machine can pose as either side, and read what passes. Move the three files to\n"
            "where they belong, and leave no copy. (--relay-file needs no authority on the relay.)"
        )
    elif not pins:
        output.say(
            "Without --relay-pin, client and connector trust the relay only with a certificate of a CA\n"
            "(relay --tls-certificate). The relay's pin stands in its ready line."
        )
    elif pins < len(args.endpoints):
        output.say(
            f"{len(args.endpoints)} relays and {pins} --relay-pin: every relay has its own, in its ready line.\n"
            "Client and connector trust no relay whose pin is not among those given."
        )


def run_import(args: argparse.Namespace) -> int:
    """Bring a relay file into the registry."""
    from ...errors import ConfigurationError
    from ...relay import Registry, parse_relay_record_untrusted
    from ...relay.limits import RELAY_RECORD_BYTES

    try:
        with args.relay_file.open("rb") as file:
            text = file.read(RELAY_RECORD_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(f"cannot read the relay file {args.relay_file}: {exc.strerror}") from exc
    record = parse_relay_record_untrusted(text)
    with Registry.open(args.state) as registry:
        registry.import_(record)
    if len(record.hosts) > 1:
        advice = f"import {args.relay_file} at each of these relays, then delete it"
    else:
        advice = f"delete {args.relay_file}"
    output.say(f"imported {record.name} (endpoint {', '.join(record.hosts)}); {advice}: it holds keys")
    output.say(f"compare with what its connection strings were given: {_pin_and_ports(args.state)}")
    return exits.OK


def run_issue(args: argparse.Namespace) -> int:
    """Write a further connection string."""
    from ...errors import ConfigurationError
    from ...security import AuthorityFile, Role
    from ...security.authority_file import MAX_AUTHORITY_FILE
    from ..files import check_new_files, new_files
    from ..provisioning import issue_string

    check_new_files([args.out])
    try:
        with args.authority_file.open("rb") as file:
            text = file.read(MAX_AUTHORITY_FILE + 1).decode("utf-8", "replace")
    except OSError as exc:
        raise ConfigurationError(f"cannot read the authority file {args.authority_file}: {exc.strerror}") from exc
    authority_file = AuthorityFile.parse_untrusted(text)
    if (owner := authority_file.authority.connection_name) != args.name:
        raise ConfigurationError(f"{args.authority_file} is the authority of {owner}, not of {args.name}")
    role = Role(args.role)
    string = issue_string(authority_file, role, args.label, now=time.time(), valid_years=args.valid_years)
    with new_files({args.out: string.format() + "\n"}):
        pass
    identity, _ = string.require_identity()
    end = _date(identity.details.not_after)
    output.say(f"issued {args.out}: {role} of {args.name}, label {identity.label}, valid until {end}")
    output.say(f"serial {identity.serial}")
    return exits.OK


def run_list(args: argparse.Namespace) -> int:
    """List all."""
    from ...relay import Registry

    with Registry.open(args.state, create=False) as registry:
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
    from ...relay import Registry, load_public_ports
    from ..key_table import key_rows

    with Registry.open(args.state, create=False) as registry:
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
    from ...relay import Registry

    with Registry.open(args.state, create=False) as registry:
        registry.delete(args.name)
    output.say(f"deleted {args.name}: its connection strings are of no use any more")
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
