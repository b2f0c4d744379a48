"""The arguments of ``hybridrelay connector``."""

from __future__ import annotations

import argparse

from ..command import Command
from ..parsing import Parser
from . import values
from .audit_options import add_audit
from .options import (
    HOW_REACHED,
    RELOADS,
    WHAT_IT_DOES,
    WHERE_FROM,
    add_claim_file,
    add_config,
    add_connection_tables,
    add_files,
    add_grace,
    add_how_reached,
    add_policy_dir,
    add_resume_deadline,
    add_status,
    add_upgrade_interval,
)

_RELOADED = (
    f"the connection strings, the deny list, the policy, {HOW_REACHED}"
    ", and in the file of --config, the hybrid connections, status, log-level and the keys that begin with audit-"
)
_DESCRIPTION = f"""\
Run the connector, in the private network, where it can reach the target. It connects to the relay and accepts no
connections itself. For applications that prove their identity, it connects to the target that its own connection
string names. One process can serve several hybrid connections. Several connectors with the same connection string
are redundant.

{WHERE_FROM}

The log (standard error) records every stream: its application, its target, the number of bytes, and how it ended
(logger hybridrelay.audit). --audit-dir and --audit-to write the audit log to other places, too (docs/audit.md). A
relay that cannot be reached is retried indefinitely.

If a connection string names several relays, the connector registers at all of them, under the same instance id. It is
ready when each hybrid connection is registered at one relay or more; the log says which registrations are missing. If
a relay refuses a connection string for a permanent reason, the connector continues without that registration, as long
as it has another one. When it is ready, the program prints a line (the ready line), which names the hybrid
connections that are served.

{RELOADS.format(what=_RELOADED, unless=", unless the deny list or the policy now denies them")}

{WHAT_IT_DOES}
"""
_EXAMPLES = """\
examples:
  hybridrelay connector --connection-string-file orders.connector
  two, with a deny list:
    hybridrelay connector --deny-list deny-list.txt \\
        --connection-string-file orders.connector billing.connector
  with an audit log in tamper-evident files and at a syslog server; while
  the files cannot be written, no stream is opened:
    hybridrelay connector --connection-string-file orders.connector \\
        --audit-dir /var/lib/hybridrelay-connector/audit --audit-required file \\
        --audit-to syslog+tls://logs.example.com
  with its status, and metrics for Prometheus, on a loopback port:
    hybridrelay connector --connection-string-file orders.connector \\
        --status 127.0.0.1:9351
    hybridrelay status --from 127.0.0.1:9351
  one of several connectors, which checks its target every 30 seconds while
  nobody connects to it:
    hybridrelay connector --connection-string-file orders.connector \\
        --check-target-interval 30
  at the first start, with the code of a claim instead of a file:
    hybridrelay connector --claim-file code \\
        --connection-string-file /var/lib/hybridrelay/orders.connector
  with a configuration file, whose keys are the options' names, and which has a
  table for each hybrid connection; the command line takes precedence, and
  paths are relative to the file:
    hybridrelay connector --config connector.toml

connector.toml; changes take effect without a restart:
  deny-list = "deny-list.txt"
  grace = 10
  [[connection]]
  file = "orders.connector"
  [[connection]]
  file = "billing.connector"
  deny-list = "billing-deny-list.txt"  # in addition, for this one only

deny-list.txt, the deny list; it is read again whenever it changes, and open
sessions of the identities in it are closed:
  reporting            # a label: all identities with this label
  3F:A0:17:...         # a serial: only this identity
"""


def _add_arguments(parser: Parser) -> None:
    add_files(parser, means="connectors' connection strings")
    add_claim_file(parser)
    parser.add_argument(
        "--deny-list",
        metavar="FILE",
        type=values.path,
        help="a deny list: labels or serials of identities that are refused",
    )
    _add_proxy_protocol(
        parser,
        "begin each connection to a target with a PROXY header (version 2), which has the client's address as the "
        "relay knows it, and the label of its identity; the target has to expect it; in --config, a [[connection]] "
        "may have this key",
    )
    _add_connect_in_parallel(
        parser,
        "if the name of a target has several addresses, connect to all of them (at most 8) at the same time, and use "
        "the first connection, as MultiSubnetFailover does for SQL Server (default: one after the other, each as "
        "soon as the one before has failed or has not answered for 250 ms); in --config, a [[connection]] may have "
        "this key",
    )
    add_policy_dir(parser)
    add_how_reached(parser)
    add_grace(parser)
    add_resume_deadline(parser)
    parser.add_argument(
        "--instance-file",
        metavar="F",
        type=values.path,
        help="the file in which this connector stores the id and the secret of its instance; if the connector is "
        "killed and starts again, the earlier connections of applications are then reset immediately, instead of "
        "after the resume deadline; each connector needs its own file (default: a file in $STATE_DIRECTORY, "
        "$XDG_STATE_HOME/hybridrelay or ~/.local/state/hybridrelay, if it can be written; 'none' switches it off)",
    )
    parser.add_argument(
        "--used-claims",
        metavar="F",
        type=values.path,
        help="if a connection string has an issuer: the file in which this connector records which claims were used, "
        "so that none can be used twice; connectors on the same machine may share it (default: used-claims.json in "
        "the directory of the default instance file; 'none': identities are renewed, but claims are refused)",
    )
    add_upgrade_interval(parser)
    add_audit(parser, may_require=True)
    add_status(parser)
    parser.add_argument(
        "--check-target",
        action="store_true",
        help="with --status: a request for /readyz also connects to each target, at most once a minute; the target "
        "sees a connection that ends at once",
    )
    parser.add_argument(
        "--check-target-interval",
        metavar="SECONDS",
        type=values.seconds(1),
        help="check a target to which nobody has connected for this long; to the target, a check is a connection "
        "that ends at once (default: targets are checked only after connections to them have failed); the relays "
        "prefer connectors whose targets can be reached",
    )
    add_config(parser)
    add_connection_tables(parser, _add_connection_keys)


def _add_connection_keys(keys: argparse.ArgumentParser) -> None:
    keys.add_argument("--deny-list", metavar="FILE", type=values.path)
    _add_proxy_protocol(keys, "", default=None)
    _add_connect_in_parallel(keys, "", default=None)


def _add_proxy_protocol(parser: argparse.ArgumentParser, means: str, *, default: bool | None = False) -> None:
    parser.add_argument("--proxy-protocol", action="store_true", default=default, help=means)


def _add_connect_in_parallel(parser: argparse.ArgumentParser, means: str, *, default: bool | None = False) -> None:
    parser.add_argument("--connect-in-parallel", action="store_true", default=default, help=means)


COMMAND = Command(
    "connector",
    "run the connector, in the private network",
    _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    run="connector:run",
    log_level="info",
    is_service=True,
)
