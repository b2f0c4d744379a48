"""``hybridrelay connections endpoints``: changes which relays serve a hybrid connection, and keeps its keys."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence

from ...administration import FileWithRelays, change_relays
from ...errors import ConfigurationError
from ...security.names import normal_host
from .. import exits, output
from ..public_ports import warn_of_unknown_ports
from ..relay_access import open_registry
from ..results import tell_of_missing_pins, tell_updated


def run_endpoints(args: argparse.Namespace) -> int:
    """Change the list of relays."""
    _check(args)
    warn_of_unknown_ports(args.public_ports)
    has_relay = args.state is not None or args.management is not None
    with open_registry(args) if has_relay else contextlib.nullcontext() as registry:
        done = change_relays(
            args.name,
            args.endpoints,
            registry=registry,
            relay_file=args.relay_file,
            update=args.update,
            pins=None if args.relay_pin is None else tuple(args.relay_pin),
            ports=args.public_ports,
            before_change=args.signals.hold,
        )
    before, after = done.before or (), done.after or ()
    if done.after is not None:
        output.say(f"{args.name}: endpoint {', '.join(before)} is now {', '.join(after)}")
    tell_updated(done.updated, done.incomplete)
    if args.relay_file:
        output.say(
            f"wrote {args.relay_file}: copy it to each new relay, import it there (hybridrelay connections import), "
            "and then delete it, because it contains keys"
        )
    if len(set(before) & set(after)) > 1:
        output.say(
            "Run this command with --state or --management for each of the other relays that already serve it."
        )
    if done.first_file is not None:
        _tell_about_pins(len(args.endpoints), done.first_file, args.relay_pin)
        if args.public_ports is None:
            _tell_about_ports(args.endpoints, done.first_file)
        output.say("Programs that run with these connection strings use them within seconds.")
    return exits.OK


def _check(args: argparse.Namespace) -> None:
    has_relay = args.state is not None or args.management is not None
    if not has_relay and not args.update:
        raise ConfigurationError(
            "there is nothing to change", remedy="give --state or --management, or --update, or both"
        )
    if args.relay_file is not None and not has_relay:
        raise ConfigurationError(
            "--relay-file needs --state or --management, because the relay has the keys", remedy="give both"
        )
    if (args.relay_pin or args.public_ports) and not args.update:
        raise ConfigurationError(
            "--relay-pin and --public-ports need --update, because only connection strings contain pins and ports",
            remedy="name the files with --update, or leave these options out",
        )


def _tell_about_ports(hosts: Sequence[str], file: FileWithRelays) -> None:
    known = {normal_host(endpoint.host) for endpoint in file.endpoints}
    if new := [host for host in hosts if normal_host(host) not in known]:
        output.say(
            f"Ports of {', '.join(new)}: the defaults. If the relay has others, give --public-ports for each\n"
            "--endpoint, in order."
        )


def _tell_about_pins(relays: int, file: FileWithRelays, pins: Sequence[str] | None) -> None:
    given = file.pins if pins is None else pins
    if given and len(given) < relays:
        tell_of_missing_pins(relays, len(given))
    elif pins is None and file.pins and len(file.endpoints) > relays:
        output.say(
            "The pins were not changed: give --relay-pin for all remaining relays, so that no other relay is trusted."
        )
