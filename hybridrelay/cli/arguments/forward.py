"""The arguments of ``hybridrelay forward``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..command import Command
from ..parsing import Parser
from . import values
from .audit_options import add_audit
from .fronts import FRONTS, add_fronts
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
    add_open_patience,
    add_policy_dir,
    add_resume_deadline,
    add_status,
    add_upgrade_interval,
)

_RELOADED = (
    f"the connection strings, the policy, {HOW_REACHED}"
    ", and in the file of --config, the hybrid connections, status, log-level and the keys that begin with audit-"
)
_DESCRIPTION = f"""\
Run the client beside the application. It opens local ports, to which the application connects as if they were the
target. Every connection becomes one stream to the target of the hybrid connection. If the session or the target
fails, the application's connection is reset, so that the application does not mistake the failure for the end of the
data. (Unix sockets have no reset: their connections simply end.)

{WHERE_FROM}

If a session is lost, another one is opened; this is retried indefinitely. A connection that is made while the relay
or the connector is unavailable waits for a session for up to --open-patience seconds before it is reset. If waiting
cannot help (a wrong key, a target that refuses), it is reset at once.

If the connection string names several relays, the first one that works is used. When that relay is lost or about to
stop, open connections continue over another one.
If the key of a connection string was revoked at all of its relays, the local port for this connection string is
closed. When the last port is closed, the command ends (exit code 1).

With --listen own, a hybrid connection gets the port of its local name, at a loopback address of its own (127.64.0.0
to 127.127.255.255). The address is computed from the host in the local name, and is the same in every run.
'hybridrelay hosts apply' writes these addresses with their names into the hosts file, so that programs find the
target under the name and port that they know. A port that cannot be opened is replaced by another one, with a
warning.

If the local name has several ports, --listen own is the default, and all of them are opened at this address. With
--listen ADDR:*, they are opened at another address. A port that cannot be opened is left out, with a warning; only
the first one is replaced by another port.

own and ADDR:* are for TCP connections. They are for datagrams if they end with /udp (ADDR:*/udp), and for both if
they end with /tcp+udp (own/tcp+udp).

{FRONTS}

When it is ready, the program prints a line (the ready line), which names the ports that were opened.

{RELOADS.format(what=_RELOADED, unless=", unless the policy now denies them")}

{WHAT_IT_DOES}
"""
_EXAMPLES = """\
examples:
  hybridrelay forward --connection-string-file orders.application \\
      --listen 127.0.0.1:5432
  psql -h 127.0.0.1 -p 5432
  two hybrid connections; each --listen is for the file in the same position:
    hybridrelay forward \\
        --connection-string-file orders.application --listen 127.0.0.1:5432 \\
        --connection-string-file shop.application --listen [::1]:3306
  at the first start, with the code of a claim instead of a file:
    hybridrelay forward --claim-file code \\
        --connection-string-file orders.application --listen 127.0.0.1:5432
  under the name and port that it has in the private network:
    sudo hybridrelay hosts apply --connection-string-file orders.application
    hybridrelay forward --connection-string-file orders.application \\
        --listen own
  every port of a target that has several, such as an FTP server:
    hybridrelay forward --connection-string-file ftp.application \\
        --listen 127.77.0.1:*
  on a Unix socket, to which the group may connect, for psql -h /run/orders:
    hybridrelay forward --connection-string-file orders.application \\
        --listen unix:/run/orders/.s.PGSQL.5432,mode=660
  datagrams, for a target such as dns.corp.example:53/udp:
    hybridrelay forward --connection-string-file dns.application \\
        --listen 127.0.0.1:5300/udp
  a SOCKS5 proxy for all hybrid connections, with a password:
    hybridrelay forward --connection-string-file *.application \\
        --socks 127.0.0.1:1080 --front-users-file users
  names for a resolver of this machine, such as systemd-resolved:
    hybridrelay forward --config forward.toml --listen own \\
        --dns 127.0.0.1:5353
  only over ports 443 and 80:
    hybridrelay forward --connection-string-file orders.application \\
        --mode websocket
  with a configuration file, whose keys are the options' names, and which has a
  table for each hybrid connection; the command line takes precedence, and
  paths are relative to the file:
    hybridrelay forward --config forward.toml

forward.toml; changes take effect without a restart:
  [[connection]]
  file = "orders.application"
  listen = "127.0.0.1:5432"
  [[connection]]
  file = "shop.application"
  listen = ["127.0.0.1:3306", "[::1]:3306"]
"""


def _add_arguments(parser: Parser) -> None:
    add_files(parser, means="applications' connection strings")
    add_claim_file(parser)
    _add_listen(
        parser,
        "where to listen, one value for each file (or several for a single file): ADDR:PORT ([::1]:5432 for IPv6; "
        "port 0 means any free port), with "
        "/udp or /tcp+udp if the target accepts datagrams; unix:PATH, a Unix socket for this user only, or with "
        ",mode=660 also for the group of its file; own, the ports of the local name at an address of its own; or "
        "ADDR:*, the ports of the local name at this address; own and ADDR:* may end with /udp or /tcp+udp, too "
        "(default: 127.0.0.1:0, or own if the local name has several ports, for streams, datagrams or both as the "
        "target has them; none, with --socks or --http-proxy)",
    )
    add_fronts(parser)
    add_policy_dir(parser)
    add_how_reached(parser)
    add_grace(parser)
    add_resume_deadline(parser)
    add_open_patience(parser)
    add_upgrade_interval(parser)
    add_audit(parser)
    add_status(parser)
    add_config(parser)
    add_connection_tables(parser, _add_listen)


def _add_listen(parser: argparse.ArgumentParser, text: str = "") -> None:
    parser.add_argument(
        "--listen",
        metavar="ADDR:PORT|ADDR:*|unix:PATH|own",
        type=values.local_address,
        action="append",
        default=[],
        help=text,
    )


def parse_forward(options: Sequence[str]) -> argparse.Namespace:
    """Parse options of ``forward``, for other commands that use its configuration."""
    parser = Parser(prog="hybridrelay forward", add_help=False)
    # These are added to every command, and may be in its configuration file.
    parser.add_argument("--log-level")
    parser.add_argument("--log-json", action="store_true", default=None)
    parser.set_defaults(default_log_level="warning")
    _add_arguments(parser)
    return parser.parse_args(list(options))


COMMAND = Command(
    "forward",
    "run the client: local ports that lead to the target",
    _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    run="forward:run",
    log_level="info",
    is_service=True,
)
