"""The arguments of ``hybridrelay connections endpoints``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_endpoint, add_name, add_update

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


def _add_arguments(parser: Parser) -> None:
    add_name(parser)
    add_endpoint(parser, means="a relay, as client and connector reach it; give it again for each further relay")
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=values.path,
        help="the state directory of the relay on this machine, to be changed",
    )
    parser.add_argument(
        "--relay-file",
        metavar="F",
        type=values.path,
        help="with --state: the file to write for a relay on another machine",
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
        help="with --update: as for 'connections create' (default: a relay that the file already names keeps its "
        "ports, and a new one gets the default ports)",
    )


ENDPOINTS = Command(
    "endpoints",
    "change its relays, and keep its keys",
    _ENDPOINTS,
    _ENDPOINTS_EXAMPLES,
    _add_arguments,
    run="endpoints:run_endpoints",
)
