"""``hybridrelay connections create``."""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

from ...administration import NewFiles, create_connection
from ...errors import ConfigurationError
from ...relay import relay_has_run
from .. import exits, output
from ..policy_denials import refuse_denied
from ..public_ports import warn_of_unknown_ports
from ..relay_access import check_alternatives, open_registry
from ..results import tell_of_missing_pins


def run_create(args: argparse.Namespace) -> int:
    """Create a hybrid connection."""
    warn_of_unknown_ports(args.public_ports)
    check_alternatives(args, "state", "relay_file", "management", required=True)
    if args.relay_file is None:
        option = "--state" if args.management is None else "--management"
        if args.relay_pin:
            raise ConfigurationError(
                f"--relay-pin cannot be used with {option}, because the relay has its own pin",
                remedy="leave out --relay-pin",
            )
        if len(args.endpoints) > 1:
            raise ConfigurationError(
                f"{option} is for a hybrid connection with a single relay, because other relays could not import it",
                remedy="write a --relay-file, and import it at each of the relays",
            )
    refuse_denied(args.name, args.target, args.endpoints, args.relay_pin or ())
    authority = args.authority_file or args.connector_file.with_name(f"{args.name.replace('/', '-')}.authority")
    with contextlib.nullcontext() if args.relay_file else open_registry(args, create=True) as registry:
        done = create_connection(
            args.name,
            target=args.target,
            local_name=args.local_name,
            hosts=args.endpoints,
            files=NewFiles(args.connector_file, args.application_file, authority, args.relay_file),
            registry=registry,
            pins=args.relay_pin or (),
            ports=args.public_ports or (),
            valid_years=args.valid_years,
            has_issuer=args.issuer,
            now=time.time(),
            before_change=args.signals.hold,
        )
    _tell(args, authority, pins=len(done.pins))
    return exits.OK


def _tell_if_no_relay(args: argparse.Namespace) -> None:
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
        ("connector file", str(args.connector_file), "move it to the connector, in the private network"),
        ("application file", str(args.application_file), "move it to the client, beside the application"),
        ("authority file", str(authority), "keep it private: it can issue further identities"),
    ]
    if args.relay_file:
        where = "the relay" if len(args.endpoints) == 1 else "each relay"
        advice = f"copy it to {where}, run 'hybridrelay connections import' there, then delete it"
        rows.append(("relay file", str(args.relay_file), advice))
    output.say(output.table(("FILE", "PATH", "WHAT TO DO WITH IT"), rows))
    output.say()
    if args.state is not None:
        _tell_if_no_relay(args)
    if args.relay_file is not None and not args.public_ports:
        output.say(
            "Ports: the connection strings have the defaults (9350, 5671, 9352, 80, 443). If the relay uses others,\n"
            "which its ready line shows, change them with 'connections endpoints --public-ports'."
        )
    if args.state is not None:
        output.say(
            "Trust: the authority was created on the relay's machine. Until its file is moved away, anyone who\n"
            "controls this machine can impersonate either side, and read the data. Move the three files to\n"
            "where they belong, and leave no copy. (With --relay-file, the relay never has the authority.)"
        )
    elif args.management is not None:
        output.say(f"The relay at {args.management} serves it now. It has no part of the authority, and no identity.")
    elif not pins:
        output.say(
            "Without --relay-pin, client and connector trust the relay only if it has a certificate from a CA\n"
            "(relay --tls-certificate). The relay's pin is in its ready line."
        )
    elif pins < len(args.endpoints):
        tell_of_missing_pins(len(args.endpoints), pins)
