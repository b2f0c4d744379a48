"""The arguments of ``hybridrelay claims`` and its subcommands."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import (
    add_how_reached,
    add_local_name,
    add_name,
    add_relay,
    add_years,
)

_DESCRIPTION = """\
A claim brings a connection string to its machine without a file being copied. The administrator seals the connection
string, leaves it at the relay, and gets a code. With the code, the claim is taken, once, on the machine that is to
have the connection string. The relay cannot open it, and the administrator need not be present.

If somebody tries to take a claim that was already taken, the relay raises an alarm: the event claim.taken-again, an
entry in the audit log of its management API, and a line in 'claims list'.
"""
_CREATE = """\
Create a claim, and show its code. The connection string in it is either a new one, with an identity of its own
(--role, --label and --authority-file, as for 'connections issue', with a key that is registered at the relay), or the
one in a file (--connection-string-file). Relays and ports of a new one are those in the authority file, even with
--state. If a relay listens at other ports now, push an update first (hybridrelay updates push --help), which also
corrects the authority file.

If the hybrid connection has an issuer ('connections issuer'), a new claim for an application contains no private
key. The machine that takes it makes the key, and asks a connector for an identity, which is valid for 90 days and
which 'forward' and 'run' renew. A connector with the issuer has to be running at some time between the taking of the
claim and its expiry. With --with-private-key, the claim contains a whole connection string with its private key
instead, which is valid for --valid-years, and no connector is needed.

The code has about 110 characters, and can be typed: case and hyphens do not matter, and typing mistakes are detected.
It can be used once, until the claim expires. Pass it on in a way that you trust, such as a phone call: the first
person who uses it gets the connection string.

The relay sees the name of the hybrid connection, the times and the --note, but not the connection string. A relay
keeps up to 200 open claims for each hybrid connection, and up to 1,000 in total. Once 500 are open, it keeps
fewer for each hybrid connection.
"""
_CREATE_EXAMPLES = """\
examples:
  on the administrator's machine, for the application billing:
    hybridrelay claims create orders --role application --label billing \\
      --authority-file orders.authority --expires 12h \\
      --management https://relay.example.com:9180 --token-file admin.token
  the connector file that 'connections create' has written, with a QR code:
    hybridrelay claims create orders --connection-string-file orders.connector \\
      --qr --state /var/lib/hybridrelay
"""
_TAKE = """\
Take a claim on the machine that is to have the connection string, and write the connection string to a new file that
only you can read. The code comes from --code-file, from the environment variable HYBRIDRELAY_CLAIM_CODE, or from
standard input. It is never given on the command line, which every user of the machine can see.

The relay delivers a claim once. If it answers that the claim was taken before, and you did not take it, tell the
administrator at once: somebody else has the connection string.

If the claim contains no private key, the key is made here, and a connector issues the identity. If no connector can,
what the relay has delivered is kept in FILE.claim, which only you can read. Run the same command again when a
connector is running; it then needs no code. FILE.claim is removed when FILE is written.

The exit code is 1 if the relay or the connector refuses or cannot be reached, and 2 if the code was mistyped or FILE
cannot be written. The claim can then still be taken, except in three cases. If the relay answers that the claim was
taken or revoked, or has expired, it can no longer be taken. If FILE.claim was written, the claim has been taken: run
the same command again, without a code. If the connection to the relay was lost during the delivery, or a file became
unwritable during it, ask the administrator for a new claim.
"""
_TAKE_EXAMPLES = """\
examples:
  type or paste the code:
    hybridrelay claims take --out orders.application
  in a script:
    hybridrelay claims take --code-file /run/secrets/code \\
        --out /var/lib/hybridrelay/orders.connector
  connector and forward take a claim at their first start:
    hybridrelay connector --claim-file code \\
        --connection-string-file /var/lib/hybridrelay/orders.connector
"""
_REVOKE = """\
Revoke a claim that was not taken. Its content is deleted, and its code no longer works. If it was already taken,
regenerate the key of its rule, and put its identity on the connector's deny list, so that the taker loses access.
"""


def _add_create_arguments(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument(
        "--role", choices=("application", "connector"), help="the side that the new connection string is for"
    )
    parser.add_argument(
        "--label", metavar="L", type=values.label, help="the name of the new identity in the connector's audit log"
    )
    parser.add_argument(
        "--authority-file", metavar="F", type=values.path, help="the authority file, which issues the new identity"
    )
    parser.add_argument(
        "--rule",
        metavar="RULE",
        type=values.rule_name,
        help="the rule whose key the new connection string contains (default: the rule of its role)",
    )
    add_local_name(parser, default="the one in the authority file; only for a new string of --role application")
    add_years(parser, means="how long the identity in the claim is valid, if the claim contains a private key")
    parser.add_argument(
        "--with-private-key",
        action="store_true",
        help="for an application of a hybrid connection with an issuer: make its private key here, and seal it",
    )
    parser.add_argument(
        "--connection-string-file",
        metavar="F",
        type=values.path_or_stdin,
        help="a file with an existing connection string, instead of --role, --label and --authority-file; - for "
        "standard input",
    )
    parser.add_argument(
        "--expires",
        metavar="TIME",
        type=values.claim_lifetime,
        default=86_400.0,
        help="for how long the claim can be taken, such as 30m, 12h or 7d; at most 7d (default: 24h)",
    )
    parser.add_argument(
        "--note",
        metavar="TEXT",
        type=values.note,
        default="",
        help="a text for 'claims list', which the relay sees (default: none)",
    )
    parser.add_argument(
        "--endpoint",
        metavar="HOST",
        help="if the connection string names several relays: the one that keeps the claim",
    )
    parser.add_argument(
        "--out", metavar="F", type=values.path, help="write the code to this new file instead of showing it"
    )
    parser.add_argument("--qr", action="store_true", help="also show the code as a QR code (needs the package segno)")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_relay(parser)


def _add_list_arguments(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_relay(parser, role="viewer")


def _add_revoke_arguments(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument("which", metavar="ID", help="the id of the claim, or at least its first six characters")
    add_relay(parser)


def _add_take_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--out", metavar="FILE", type=values.path, required=True, help="the new file for the connection string"
    )
    parser.add_argument(
        "--code-file", metavar="F", type=values.path_or_stdin, help="a file with the code; - for standard input"
    )
    add_how_reached(parser)


COMMAND = Command(
    "claims",
    "deliver connection strings to their machines: create, list, revoke or take claims",
    _DESCRIPTION,
    "each command has its own --help:\n  hybridrelay claims create --help\n",
    subcommands=(
        Command(
            "create",
            "seal a connection string for a machine, and show the code",
            _CREATE,
            _CREATE_EXAMPLES,
            _add_create_arguments,
            run="claims:run_create",
        ),
        Command(
            "list",
            "list the claims of a hybrid connection",
            "List the claims of a hybrid connection: those that are open, and those that ended in the last 30 days.",
            "example:\n  hybridrelay claims list orders --state /var/lib/hybridrelay\n",
            _add_list_arguments,
            run="claims:run_list",
        ),
        Command(
            "revoke",
            "revoke a claim that was not taken",
            _REVOKE,
            "example:\n  hybridrelay claims revoke orders b136e647 --state /var/lib/hybridrelay\n",
            _add_revoke_arguments,
            run="claims:run_revoke",
        ),
        Command(
            "take",
            "take a claim, and write its connection string",
            _TAKE,
            _TAKE_EXAMPLES,
            _add_take_arguments,
            run="claims:run_take",
        ),
    ),
)
