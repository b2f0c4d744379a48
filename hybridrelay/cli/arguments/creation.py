"""The arguments of ``hybridrelay connections create``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_endpoint, add_local_name, add_management, add_target, add_years

_CREATE = """\
Create a hybrid connection: a name, and the one target that it leads to.

It writes three files of mode 0600, and never overwrites an existing one:
  connector file     a connection string for the connector, with the target
  application file   a connection string for the client, with the local name
  authority file     only for you: with it, 'connections issue' issues
                     further identities

There are three ways to create it at the relay:
  --management URL on the administrator's machine: the name, the rules and
                   the keys are sent to the management API of the running
                   relay, with the token in --token-file. The relay never has
                   the authority, so not even its owner can impersonate one
                   side to the other.
  --relay-file F   on the administrator's machine: F contains what the relay
                   needs (name, rules, keys; no authority). Copy it to the
                   relay, and run 'connections import F --state DIR' there.
                   The relay never has the authority here, either.
  --state DIR      on the relay's machine, with the relay's state directory:
                   one step instead of two. But the authority is then created
                   there: move its file to your own machine, and leave no copy.

Several relays (--endpoint for each, at most 8, in order of preference) are
redundant. The connector registers at all of them. A client uses the first
that works, and its open connections survive the loss of that relay. Give the
--relay-pin of each relay, and import the relay file at each.
"""
_CREATE_EXAMPLES = """\
examples:
  on the administrator's machine (the pin is in the relay's ready line):
    hybridrelay connections create orders \\
      --target db.internal:5432 --endpoint relay.example.com \\
      --connector-file orders.connector --application-file orders.application \\
      --relay-file orders.relay --relay-pin sha256:...
  the same, if the relay runs with --management 0.0.0.0:9180:
    hybridrelay connections create orders \\
      --target db.internal:5432 --endpoint relay.example.com \\
      --connector-file orders.connector --application-file orders.application \\
      --management https://relay.example.com:9180 --token-file admin.token
  all on the relay's machine:
    hybridrelay connections create orders \\
      --target [fd00::5]:5432 --endpoint relay.example.com \\
      --connector-file orders.connector --application-file orders.application \\
      --state /var/lib/hybridrelay
  two relays; the second serves http on 8080 and has no probe port:
    hybridrelay connections create orders --target db.internal:5432 \\
      --endpoint a.example.com --relay-pin sha256:... --public-ports '' \\
      --endpoint b.example.com --relay-pin sha256:... \\
      --public-ports http=8080,probe=off \\
      --connector-file orders.connector --application-file orders.application \\
      --relay-file orders.relay
"""


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", type=values.connection_name, help="the name of the hybrid connection")
    add_target(parser)
    add_local_name(parser, default="the target's, or none if that is a loopback address")
    add_endpoint(
        parser, means="the relay's host name or address for client and connector; repeat it for each further relay"
    )
    parser.add_argument(
        "--connector-file",
        metavar="F",
        type=values.path,
        required=True,
        help="the file to create with the connector's connection string",
    )
    parser.add_argument(
        "--application-file",
        metavar="F",
        type=values.path,
        required=True,
        help="the file to create with the application's connection string",
    )
    parser.add_argument(
        "--authority-file",
        metavar="F",
        type=values.path,
        help="the file to create with the authority (default: NAME.authority in the connector file's directory)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--state", metavar="DIR", type=values.path, help="the state directory of the relay on this machine"
    )
    where.add_argument(
        "--relay-file", metavar="F", type=values.path, help="the file to create for a relay on another machine"
    )
    add_management(parser, parser)
    parser.add_argument(
        "--relay-pin",
        metavar="PIN",
        type=values.pin,
        action="append",
        help="with --relay-file: the relay's pin; may be repeated, and any of them is accepted for any of the "
        "relays; without a pin, the relay needs a certificate from a CA",
    )
    parser.add_argument(
        "--public-ports",
        metavar="PORTS",
        type=values.public_ports,
        action="append",
        help="the relay's ports that differ from the default ports, such as http=8080,probe=off; with several "
        "relays, once for all of them, or once for each --endpoint in the same order ('' means the default ports) "
        "(default: with --state or --management, the ports of that relay; with --relay-file, the default ports)",
    )
    add_years(parser)
    parser.add_argument(
        "--issuer",
        action="store_true",
        help="give the connector an issuer, which signs the identities of applications that take claims; see "
        "'connections issuer'",
    )


CREATE = Command(
    "create",
    "create a hybrid connection, and write its files",
    _CREATE,
    _CREATE_EXAMPLES,
    _add_arguments,
    run="creation:run_create",
)
