"""The arguments of ``hybridrelay run``."""

from __future__ import annotations

import argparse

from .. import exits
from ..command import Command
from ..parsing import Parser
from . import values
from .audit_options import add_audit
from .options import (
    WHERE_FROM,
    add_config,
    add_connection_tables,
    add_files,
    add_how_reached,
    add_open_patience,
    add_policy_dir,
    add_resume_deadline,
    add_status,
    add_upgrade_interval,
)

#: How long connections that are still open may take to end after the application has ended (seconds).
_GRACE = 5.0

_DESCRIPTION = f"""\
Run an application that reaches the targets of hybrid connections under the names and ports that they have in the
private network, so that its configuration stays as it is. Only this application, and the programs that it starts, see
these names. Nothing on the machine is changed, and nothing has to be prepared or installed; root is not needed. It
works for any program on Linux: Java, Node, Go, psql, curl, ...

The name and port are those of --as, or else the local name in the application's connection string.

{WHERE_FROM}

--network chooses how this is done. By default, it is the first of these that this machine allows. 'run --check' says
which ones it allows, and what to change so that it allows the others.

  host       the application has its own hosts file, and otherwise uses the
             network of the machine. Names get loopback addresses. Connections
             to published IP addresses (an IP address in --as), and to published
             ports below 1024, are redirected.
  intercept  no namespaces: connections and DNS queries are redirected. The
             rest of the network is unchanged.
  private    a network of its own, in which there is nothing but the published
             hosts. No other user of the machine can connect to them.

To the shell or supervisor that starts it, the command behaves like the application: the application has the terminal,
receives the signals, and can be stopped and continued, and the command exits with the application's exit code. The
command ends when the application ends; processes that the application has left running lose their connections. If the
command is killed, the application is killed as well.

Programs that the application starts cannot gain privileges: sudo, su and other set-user-ID programs do not work.

exit codes: those of the application; 127 if there is no such application, 126 if it cannot be executed, 125 if this
command itself fails, for example because an argument or a file cannot be used, or the policy does not allow it.
"""
_EXAMPLES = """\
examples:
  hybridrelay run --connection-string-file orders.application -- \\
      psql -h sql01.corp.example -p 5432 orders
  another name, or another port, than in the connection string:
    hybridrelay run --connection-string-file intranet.application \\
        --as intranet:80 -- curl http://intranet/
  two hybrid connections; each --as is for the file in the same position:
    hybridrelay run \\
        --connection-string-file orders.application --as sql01:1433 \\
        --connection-string-file shop.application --as 10.20.30.40:3306 \\
        -- java -jar shop.jar
  with a configuration file:
    hybridrelay run --config run.toml -- ./manage.py migrate
  what this machine allows:
    hybridrelay run --check

run.toml:
  network = "private"
  [[connection]]
  file = "orders.application"
  [[connection]]
  file = "shop.application"
  as = ["shop-db.corp.example:3306", "10.20.30.40:3306"]
"""


def _add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "application", metavar="APP ARGS", nargs="*", help="the application and its arguments, after --"
    )
    add_files(parser, means="applications' connection strings")
    _add_as(
        parser,
        "the name and port, or ports (ftp.corp:21,50000-50100), under which the application knows the target, one "
        "for each file (default: the local name in the connection string)",
    )
    parser.add_argument(
        "--network",
        choices=("host", "private", "intercept"),
        help="what the application sees of the network, as described above (default: the first of host, intercept "
        "and private that works)",
    )
    parser.add_argument(
        "--check", action="store_true", help="say what this machine allows, and what to change; runs no application"
    )
    parser.add_argument("--json", action="store_true", help="with --check: print JSON")
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=values.seconds(0),
        default=_GRACE,
        help="how long to wait, after the application has ended, for connections that are still open; a signal ends "
        "them immediately (default: %(default)g)",
    )
    add_policy_dir(parser)
    add_how_reached(parser)
    add_resume_deadline(parser)
    add_open_patience(parser)
    add_upgrade_interval(parser)
    add_audit(parser)
    add_status(parser)
    add_config(parser)
    add_connection_tables(parser, _add_as)


def _add_as(parser: argparse.ArgumentParser, text: str = "") -> None:
    parser.add_argument(
        "--as",
        metavar="HOST:PORTS",
        dest="published_names",
        type=values.published_name,
        action="append",
        default=[],
        help=text,
    )


COMMAND = Command(
    "run",
    "run an application that reaches targets under their names in the private network",
    _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    run="run:run",
    failure_code=exits.NOT_STARTED,
)
