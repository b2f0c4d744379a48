"""The arguments of ``hybridrelay connections issuer``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_name, add_update

_ISSUER = """\
Give a hybrid connection an issuer, or a new one. An issuer is a certificate authority below that of the hybrid
connection. It is in the connection strings of connectors, and can sign the identities of applications, and nothing
else: no certificate that it signs is ever accepted as a connector's.

With an issuer, the private keys of applications need not leave the machines that use them. 'claims create --role
application' then creates claims without a private key: the machine that takes the claim makes the key, and the
connector signs its certificate. Such an identity is valid for 90 days, and 'forward' and 'run' have it renewed by the
connector after 60 days.

The issuer is written into the authority file, so that connection strings issued later for connectors have it, and
into the connector files that are named with --update. A connector that runs with these files uses it within seconds.
Every connector of the hybrid connection needs one: those without it accept no identities that an issuer has signed.

An issuer is valid for two years, or for --valid-years, and identities that it signs expire no later than it does. Run
this command again before it expires. Anyone who steals a connector file with an issuer can make identities with any
label for this hybrid connection.
"""
_EXAMPLE = """\
example:
  hybridrelay connections issuer orders --authority-file orders.authority \\
      --update orders.connector
"""


def _add_arguments(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument(
        "--authority-file",
        metavar="F",
        type=values.path,
        required=True,
        help="the authority file of the hybrid connection",
    )
    add_update(parser, means="connection string files of connectors to write the issuer into")
    parser.add_argument(
        "--valid-years", metavar="N", type=values.years, default=2.0, help="how long the issuer is valid (default: 2)"
    )


ISSUER = Command(
    "issuer",
    "give connectors an issuer, so that applications' private keys can stay on their machines",
    _ISSUER,
    _EXAMPLE,
    _add_arguments,
    run="issuer:run_issuer",
)
