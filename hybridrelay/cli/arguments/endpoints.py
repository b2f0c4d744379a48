"""The arguments of ``hybridrelay connections endpoints``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_endpoint, add_management, add_name, add_update

_ENDPOINTS = """\
Change which relays serve a hybrid connection: add, remove or rename a relay. Keys and identities do not change.
With --endpoint, name all relays that are to serve it, in order of preference. This list is stored in registries and
in files. One command can change both, or you can run the command on several machines:

  --state DIR or --management URL
                 the registry of each relay that already serves it. With
                 --relay-file, this also writes the file that has to be
                 imported at a new relay; it contains keys.
  --update F ... its connection string files, and the authority file, so that
                 connection strings issued later have the new list. Also give
                 the --relay-pin of each relay. Programs that run with these
                 files use the new list within seconds.

To add a relay, first change the registry and write the relay file, then import it at the new relay, then update the
connector's connection strings, then those of the applications. Old connection strings continue to work. To remove a
relay, first update the connection strings, then run 'connections delete' at that relay.
"""
_ENDPOINTS_EXAMPLES = """\
examples:
  add b.example.com: at the existing relay,
    hybridrelay connections endpoints orders \\
      --endpoint a.example.com --endpoint b.example.com \\
      --state /var/lib/hybridrelay --relay-file orders.relay
  then at the new one,
    hybridrelay connections import orders.relay --state /var/lib/hybridrelay
  then where the connection strings are:
    hybridrelay connections endpoints orders \\
      --endpoint a.example.com --relay-pin sha256:... \\
      --endpoint b.example.com --relay-pin sha256:... \\
      --update orders.authority orders.connector orders.application
"""


def _add_arguments(parser: Parser) -> None:
    add_name(parser)
    add_endpoint(
        parser, means="a relay's host name or address for client and connector; repeat it for each further relay"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--state",
        metavar="DIR",
        type=values.path,
        help="the state directory of the relay on this machine, to be changed",
    )
    add_management(where, parser)
    parser.add_argument(
        "--relay-file",
        metavar="F",
        type=values.path,
        help="with --state or --management: the file to create for a relay on another machine",
    )
    add_update(parser, means="connection string files and authority files to write the new list into")
    parser.add_argument(
        "--relay-pin",
        metavar="PIN",
        type=values.pin,
        action="append",
        help="with --update: the pins of all relays (default: those that each file has)",
    )
    parser.add_argument(
        "--public-ports",
        metavar="PORTS",
        type=values.public_ports,
        action="append",
        help="with --update: as for 'connections create' (default: a relay that the file already names keeps its "
        "ports, and a new one gets the default ports)",
    )


ENDPOINTS = Command(
    "endpoints",
    "change the relays of a hybrid connection, and keep its keys",
    _ENDPOINTS,
    _ENDPOINTS_EXAMPLES,
    _add_arguments,
    run="endpoints:run_endpoints",
)
