"""The arguments of ``hybridrelay connections apply``."""

from __future__ import annotations

import argparse

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_relay

_APPLY = """\
Bring the hybrid connections of a relay into the state that a file declares. The file can declare many of them, and
the command can be repeated. It creates what is missing, changes what differs, and does not touch the rest; keys and
identities stay the same. A connection string whose key is no longer valid, for example after 'keys roll', gets a
valid one.

The files of each hybrid connection are in the directory --out: strings/NAME.connector, NAME.application,
NAME.authority, and NAME@LABEL.application for each further application. Keep this directory: without the authority
file, a hybrid connection cannot be changed.

connector.toml, for 'connector --config', is there as well. It gets a table for each hybrid connection that has none;
anything else that you write into it stays. Copy it and the directory 'strings' into one directory of the connector's
machine: a service that 'service install connector' has installed reads them in /etc/hybridrelay.

What is no longer declared is listed, and not changed: rules, and hybrid connections whose authority files are in the
directory. With --delete, it is deleted at the relay, and the tables of deleted hybrid connections are removed from
connector.toml. Their files stay.
"""
_APPLY_EXAMPLES = """\
examples:
  first see what would be done:
    hybridrelay connections apply databases.toml --out databases \\
        --state /var/lib/hybridrelay --dry-run
  on the administrator's machine:
    hybridrelay connections apply databases.toml --out databases \\
        --management https://relay.example.com:9180 --token-file admin.token

databases.toml:
  endpoint = "relay.example.com"

  [[connection]]
  name = "orders"
  target = "db1.internal:5432"

  [[connection]]
  name = "billing"
  target = "db2.internal:5432"
  # the local name (default: the target's host and port at creation)
  local-name = "billing.corp.example:5432"
  # the connector signs identities of applications ('connections issuer')
  issuer = true
  # further applications: each has a label, and optionally a rule of its own
  [[connection.application]]
  label = "reporting"
  rule = "reporting"
  # an application that takes a claim: no connection string is issued here
  [[connection.application]]
  label = "archive"
  rule = "archive"
  by-claim = true

with several relays, run the command for each of them:
  endpoint = ["a.example.com", "b.example.com"]
  relay-pin = ["sha256:...", "sha256:..."]
"""


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE.toml", type=values.path, help="declares the hybrid connections")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=values.path,
        required=True,
        help="the directory of the files of the hybrid connections; it is created if it is missing",
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and show what would be changed")
    parser.add_argument("--delete", action="store_true", help="also delete what is no longer declared")
    add_relay(parser)
    parser.set_defaults(keys=_keys(), connection_keys=_connection_keys(), application_keys=_application_keys())


def _keys() -> argparse.ArgumentParser:
    """Return a parser with an option for each top-level key of the file: values of keys are parsed like those of
    options."""
    parser = Parser(add_help=False)
    _add_endpoints(parser)
    parser.add_argument("--relay-pin", metavar="PIN", type=values.pin, action="append", default=[])
    parser.add_argument("--public-ports", metavar="PORTS", type=values.public_ports, action="append", default=[])
    return parser


def _connection_keys() -> argparse.ArgumentParser:
    parser = Parser(add_help=False)
    parser.add_argument("--name", type=values.connection_name)
    parser.add_argument("--target", type=values.target)
    parser.add_argument("--local-name", type=values.local_name)
    parser.add_argument("--issuer", action="store_true", default=None)
    _add_endpoints(parser)
    return parser


def _application_keys() -> argparse.ArgumentParser:
    parser = Parser(add_help=False)
    parser.add_argument("--label", type=values.label)
    parser.add_argument("--rule", type=values.rule_name)
    parser.add_argument("--by-claim", action="store_true")
    return parser


def _add_endpoints(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", dest="endpoints", type=values.endpoint, action="append", default=[])


APPLY = Command(
    "apply",
    "create and change many hybrid connections, as a file declares them",
    _APPLY,
    _APPLY_EXAMPLES,
    _add_arguments,
    run="applying:run_apply",
)
