"""``hybridrelay connections create``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from .. import exits, output, values
from ..parser import Subparsers, add_command
from ..shared_options import add_endpoint, warn_of_unknown_ports

_CREATE = """\
Create a hybrid connection: a name, and the one host:port that it leads to.

Writes three files of mode 0600, and never overwrites an existing one:
  connector file     a connection string for the connector, with the target
  application file   a connection string for the client
  authority file     for you alone: whoever has it can issue further
                     identities ('connections issue')

There are two ways to register it at the relay:
  --relay-file F   on the administrator's machine: F contains what the relay
                   needs (name, rules, keys; no authority). Copy it there, and
                   run 'connections import F --state DIR'. The relay never
                   sees the authority, so not even its owner can pose as one
                   side to the other.
  --state DIR      on the relay's machine, with the relay's state directory:
                   one step instead of two. But then the authority was made
                   there: move its file to your own machine, leave no copy.

Several relays (--endpoint for each, at most 8, first choice first) make the
relay redundant. The connector registers at all of them. A client uses the
first that works, and its open connections survive the loss of that relay.
Give the --relay-pin of each, and import the relay file at each.
"""
_CREATE_EXAMPLES = """\
examples:
  on the administrator's machine (the pin is in the relay's ready line):
    hybridrelay connections create orders \\
      --target db.internal:5432 --endpoint relay.example.com \\
      --connector-file orders.connector --application-file orders.application \\
      --relay-file orders.relay --relay-pin sha256:...
  all on the relay's machine:
    hybridrelay connections create orders \\
      --target [fd00::5]:5432 --endpoint relay.example.com \\
      --connector-file orders.connector --application-file orders.application \\
      --state /var/lib/hybridrelay
  two relays, of which the second serves http on 8080 and has no probe port:
    hybridrelay connections create orders --target db.internal:5432 \\
      --endpoint a.example.com --relay-pin sha256:... --public-ports '' \\
      --endpoint b.example.com --relay-pin sha256:... \\
      --public-ports http=8080,probe=off \\
      --connector-file orders.connector --application-file orders.application \\
      --relay-file orders.relay
"""


def add_create(below: Subparsers) -> None:
    """Add the command."""
    parser = add_command(below, "create", "create one, and write its files", _CREATE, _CREATE_EXAMPLES)
    parser.add_argument("name", metavar="NAME", type=values.connection_name, help="the name of the hybrid connection")
    parser.add_argument(
        "--target",
        metavar="HOST:PORT",
        type=values.target,
        required=True,
        help="what the connector dials; IPv6 as [::1]:5432",
    )
    add_endpoint(parser, means="the relay, as client and connector reach it; give it again for each further relay")
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
        help="with --relay-file: the relay's pin; may be repeated, and any of them is accepted for any of the "
        "relays; without any, the relay "
        "needs a certificate from a CA",
    )
    parser.add_argument(
        "--public-ports",
        metavar="PORTS",
        type=values.public_ports,
        action="append",
        help="the relay's ports that are not the defaults, such as http=8080,probe=off; with several relays once for "
        "all of them, or once for each --endpoint in the same order ('' for the defaults) "
        "(default: with --state the ports of the relay there, with --relay-file the usual ones)",
    )
    add_years(parser)
    parser.set_defaults(run=run_create, default_log_level="warning")


def add_years(parser: argparse.ArgumentParser) -> None:
    """Add ``--valid-years``."""
    parser.add_argument(
        "--valid-years", metavar="N", type=values.years, default=10.0, help="how long it is valid (default: 10)"
    )


def run_create(args: argparse.Namespace) -> int:
    """Create a hybrid connection."""
    from ...administration import NewFiles, create_connection
    from ...errors import ConfigurationError

    warn_of_unknown_ports(args.public_ports)
    if args.state is not None and args.relay_pin:
        raise ConfigurationError(
            "--relay-pin is for --relay-file: the state directory has the relay's own pin", remedy="leave it out"
        )
    if args.state is not None and len(args.endpoints) > 1:
        raise ConfigurationError(
            "--state is for a hybrid connection with one relay: the other relays need it as well",
            remedy="write a --relay-file, and import it at each of the relays",
        )
    authority = args.authority_file or args.connector_file.with_name(f"{args.name.replace('/', '-')}.authority")
    done = create_connection(
        args.name,
        target=args.target,
        hosts=args.endpoints,
        files=NewFiles(args.connector_file, args.application_file, authority, args.relay_file),
        state_dir=args.state,
        pins=args.relay_pin or (),
        ports=args.public_ports or (),
        valid_years=args.valid_years,
        now=time.time(),
        before_change=args.signals.hold,
    )
    _tell(args, authority, pins=len(done.pins))
    return exits.OK


def _tell_if_no_relay(args: argparse.Namespace) -> None:
    from ...relay import relay_has_run

    if relay_has_run(args.state):
        return
    output.say(f"No relay has been started with the state directory {args.state} yet: start one with this --state.")
    if not args.public_ports:
        output.say(
            "The connection strings have the default ports (9350, 5671, 9352, 80, 443).\n"
            "If the relay uses others, change them with 'connections endpoints --public-ports'."
        )
    output.say()


def _tell(args: argparse.Namespace, authority: Path, *, pins: int) -> None:
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
        _tell_if_no_relay(args)
    if args.state is None and not args.public_ports:
        output.say(
            "Ports: the defaults (9350, 5671, 9352, 80, 443). A relay with other ports needs --public-ports here,\n"
            "or 'connections endpoints --public-ports' later; its ready line shows them."
        )
    if args.state is not None:
        output.say(
            "Trust: the authority was made on the relay's machine. Until its file is moved away, whoever\n"
            "controls this machine can pose as either side, and read what passes. Move the three files to\n"
            "where they belong, and leave no copy. (--relay-file needs no authority on the relay.)"
        )
    elif not pins:
        output.say(
            "Without --relay-pin, client and connector trust the relay only with a certificate of a CA\n"
            "(relay --tls-certificate). The relay's pin is in its ready line."
        )
    elif pins < len(args.endpoints):
        output.say(
            f"{len(args.endpoints)} relays and {pins} --relay-pin: every relay has its own, in its ready line.\n"
            "Client and connector trust no relay whose pin is not among those given."
        )
