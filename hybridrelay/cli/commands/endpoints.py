"""``hybridrelay connections endpoints``: other relays for a hybrid connection that exists, and its keys stay."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING

from .. import exits, output, values
from ..parser import Subparsers, add_command
from ..shared_options import add_endpoint, add_update, warn_of_unknown_ports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...administration.files_with_relays import FileWithRelays

_ENDPOINTS = """\
Change which relays serve a hybrid connection: add, remove or rename a relay. Keys and identities do not change.
--endpoint names all relays that are to serve it, first choice first. The list is in two kinds of places, which may be
changed on one machine or on several, in one call or in several:

  --state DIR    at every relay that serves it already. --relay-file writes
                 what a new relay has to import; it holds keys.
  --update F ... where its connection strings are, and the authority file,
                 so that strings issued later carry the new list. Also give
                 the --relay-pin of each relay. Then send SIGHUP to the
                 programs that use the strings.

To add a relay: first the registry and the relay file, then the import at the new relay, the connector's strings, and
the applications' strings. Old strings continue to work. To remove one: first the strings, then 'connections delete'
there.
"""
_ENDPOINTS_EXAMPLES = """\
examples:
  add b.example.com; at the existing relay:
    hybridrelay connections endpoints orders \\
      --endpoint a.example.com --endpoint b.example.com \\
      --state /var/lib/hybridrelay --relay-file orders.relay
  then at the new one:
    hybridrelay connections import orders.relay --state /var/lib/hybridrelay
  then where the strings are:
    hybridrelay connections endpoints orders \\
      --endpoint a.example.com --relay-pin sha256:... \\
      --endpoint b.example.com --relay-pin sha256:... \\
      --update orders.authority orders.connector orders.application
"""


def add_endpoints(below: Subparsers) -> None:
    """Add the command."""
    summary = "change its relays, and keep its keys"
    parser = add_command(below, "endpoints", summary, _ENDPOINTS, _ENDPOINTS_EXAMPLES)
    parser.add_argument("name", metavar="NAME", type=values.connection_name, help="the hybrid connection")
    add_endpoint(parser, means="a relay, as client and connector reach it; give it again for each further relay")
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=values.path,
        help="the state directory of the relay on this machine, to be changed",
    )
    parser.add_argument(
        "--relay-file", metavar="F", type=values.path, help="with --state: to be written, for a relay elsewhere"
    )
    add_update(parser, means="connection string files and authority files: give them the new list")
    parser.add_argument(
        "--relay-pin",
        metavar="PIN",
        type=values.pin,
        action="append",
        help="with --update: the pins of all the relays (default: those that the file has)",
    )
    parser.add_argument(
        "--public-ports",
        metavar="PORTS",
        type=values.public_ports,
        action="append",
        help="with --update: as for 'connections create' (default: for relays that the file names already, the "
        "ports there; for others the usual ones)",
    )
    parser.set_defaults(run=run_endpoints, default_log_level="warning")


def run_endpoints(args: argparse.Namespace) -> int:
    """Change the list of relays."""
    from ...administration import change_relays
    from ...relay import SQLiteStore
    from ..results import tell_updated

    _check(args)
    warn_of_unknown_ports(args.public_ports)
    with contextlib.nullcontext() if args.state is None else SQLiteStore.open(args.state, create=False) as store:
        done = change_relays(
            args.name,
            args.endpoints,
            store=store,
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
            f"wrote {args.relay_file}: bring it to each new relay, and import it there (hybridrelay connections "
            "import); then delete it: it holds keys"
        )
    if len(set(before) & set(after)) > 1:
        output.say("Run this command with --state at each of the other relays that serve it already.")
    if done.first_file is not None:
        _tell_about_pins(len(args.endpoints), done.first_file, args.relay_pin)
        output.say("Send SIGHUP to the programs that use the connection strings, connectors first.")
    return exits.OK


def _check(args: argparse.Namespace) -> None:
    from ...errors import ConfigurationError

    if args.state is None and not args.update:
        raise ConfigurationError("nothing is to be changed", remedy="give --state, or --update, or both")
    if args.relay_file is not None and args.state is None:
        raise ConfigurationError("--relay-file needs --state: the registry has the keys", remedy="give both")
    if (args.relay_pin or args.public_ports) and not args.update:
        raise ConfigurationError(
            "--relay-pin and --public-ports are for --update: only connection strings carry them",
            remedy="name the files with --update, or leave them out",
        )


def _tell_about_pins(relays: int, file: FileWithRelays, pins: Sequence[str] | None) -> None:
    given = file.pins if pins is None else pins
    if given and len(given) < relays:
        output.say(
            f"{relays} relays and {len(given)} --relay-pin: every relay has its own, in its ready line.\n"
            "Client and connector trust no relay whose pin is not among those given."
        )
    elif pins is None and file.pins and len(file.endpoints) > relays:
        output.say(
            "The pins were not changed: give those of all remaining relays, so that no other is trusted any more."
        )
