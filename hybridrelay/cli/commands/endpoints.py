"""``hybridrelay connections endpoints``: other relays for a hybrid connection that exists, and its keys stay."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import exits, output, values
from ..parser import Subparsers, add_command
from ..shared_options import add_endpoint, add_update, warn_of_unknown_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ...relay import HybridConnection
    from ...security import Endpoint
    from ..relay_holders import RelayHolder

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
    from ..changes import only_command_on

    _check(args)
    warn_of_unknown_ports(args.public_ports)
    with only_command_on(args.update):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    from ..relay_holders import read_relay_holder

    # All that can be wrong with the files is found out before anything is changed.
    pins = None if args.relay_pin is None else tuple(args.relay_pin)
    endpoints = _pair(args.endpoints, args.public_ports or ())
    holders = [read_relay_holder(path, args.name) for path in args.update]
    texts = {
        holder.path: holder.with_relays(endpoints, pins, keep_ports=args.public_ports is None) for holder in holders
    }
    if args.state is None:
        _change(args, lambda: None, texts, {})
    else:
        _change_registry(args, texts)
    if holders:
        _tell_about_pins(len(args.endpoints), holders[0], pins)
        output.say("Send SIGHUP to the programs that use the connection strings, connectors first.")
    return exits.OK


def _check(args: argparse.Namespace) -> None:
    from ...errors import ConfigurationError
    from ..files import check_new_files

    if args.state is None and not args.update:
        raise ConfigurationError("nothing is to be changed", remedy="give --state, or --update, or both")
    if args.relay_file is not None and args.state is None:
        raise ConfigurationError("--relay-file needs --state: the registry has the keys", remedy="give both")
    if (args.relay_pin or args.public_ports) and not args.update:
        raise ConfigurationError(
            "--relay-pin and --public-ports are for --update: only connection strings carry them",
            remedy="name the files with --update, or leave them out",
        )
    check_new_files([args.relay_file] if args.relay_file else [])


def _pair(hosts: Sequence[str], ports: Sequence[dict[str, int | None]]) -> tuple[Endpoint, ...]:
    from ...errors import ConfigurationError
    from ...security import check_hosts, pair_endpoints

    try:
        return pair_endpoints(check_hosts(hosts), ports)
    except ValueError as exc:
        raise ConfigurationError(str(exc), remedy="see --endpoint and --public-ports in --help") from None


def _change(
    args: argparse.Namespace, change: Callable[[], None], replace: Mapping[Path, str], create: Mapping[Path, str]
) -> None:
    from ..changes import change_with_files

    change_with_files(
        change,
        hold=args.signals.hold,
        replace=replace,
        create=create,
        what="the list of relays was changed",
        remedy="make it possible to write these files, and run the command again for --update",
    )


def _change_registry(args: argparse.Namespace, texts: Mapping[Path, str]) -> None:
    from ...relay import RelayRecord, SQLiteStore, dump_relay_record

    with SQLiteStore.open(args.state, create=False) as registry:
        known: HybridConnection = registry.get(args.name)
        record = RelayRecord(known.name, args.endpoints, known.rules)

        def change() -> None:
            registry.change_hosts(args.name, record.hosts)
            output.say(f"{args.name}: endpoint {', '.join(known.hosts)} is now {', '.join(record.hosts)}")

        _change(args, change, texts, {args.relay_file: dump_relay_record(record)} if args.relay_file else {})
    if args.relay_file:
        output.say(
            f"wrote {args.relay_file}: bring it to each new relay, and import it there (hybridrelay connections "
            "import); then delete it: it holds keys"
        )
    if len(set(known.hosts) & set(record.hosts)) > 1:
        output.say("Run this command with --state at each of the other relays that serve it already.")


def _tell_about_pins(relays: int, holder: RelayHolder, pins: Sequence[str] | None) -> None:
    given = holder.pins if pins is None else pins
    if given and len(given) < relays:
        output.say(
            f"{relays} relays and {len(given)} --relay-pin: every relay has its own, in its ready line.\n"
            "Client and connector trust no relay whose pin is not among those given."
        )
    elif pins is None and holder.pins and len(holder.endpoints) > relays:
        output.say(
            "The pins were not changed: give those of all remaining relays, so that no other is trusted any more."
        )
