"""The arguments of ``hybridrelay hosts`` and its subcommands."""

from __future__ import annotations

import argparse

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_files

_DESCRIPTION = """\
Let all programs on this machine find hybrid connections under their local names, by lines in the hosts file. A
'forward' with '--listen own' listens on the addresses in these lines. So a program keeps the host and port in its
configuration. 'apply' and 'remove' need root; 'forward' itself does not.

All programs on the machine see the names. If only one program needs them, use 'forward --socks' or 'run' instead.
"""
_APPLY = """\
Write a line with the address and the name of each hybrid connection into the hosts file, between two marker lines at
its end. Lines that were written before and are no longer needed are removed. All other lines stay as they are, byte
for byte. The file keeps its owner and mode, and is replaced in one step (or overwritten, if it is a mount point, as
in a container).

Name the connection strings, or the configuration file of 'forward'. The addresses are computed from the names: they
are those on which 'forward --listen own' listens, whether it runs at the moment or not. A hybrid connection whose
table in the configuration file names another address gets that address. Run the command again when names have
changed.
"""
_APPLY_EXAMPLES = """\
examples:
  sudo hybridrelay hosts apply --connection-string-file orders.application
  hybridrelay forward --connection-string-file orders.application --listen own
  psql -h db.corp.example -p 5432     (as in the private network)
  with the configuration file of forward; first see what would be changed:
    hybridrelay hosts apply --config forward.toml --dry-run
    sudo hybridrelay hosts apply --config forward.toml
  let forward open ports from 80 on without root:
    sudo sysctl net.ipv4.ip_unprivileged_port_start=80
"""
_REMOVE = """\
Remove all lines that 'hosts apply' has written, and the marker lines. This needs no configuration, and also works if
an earlier command was killed.
"""
_SHOW = "Show the lines that 'hosts apply' has written into the hosts file."


def _add_apply_arguments(parser: Parser) -> None:
    add_files(parser, means="applications' connection strings")
    parser.add_argument(
        "--config",
        metavar="FILE.toml",
        type=values.path,
        help="the configuration file of 'forward', instead of connection strings",
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and show what would be changed")
    _add_hosts_file(parser)


def _add_show_arguments(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    _add_hosts_file(parser)


def _add_hosts_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hosts-file", metavar="F", type=values.path, help="a file other than the hosts file of this machine"
    )


COMMAND = Command(
    "hosts",
    "let programs find hybrid connections under their names, with the hosts file",
    _DESCRIPTION,
    "each command has its own --help:\n  hybridrelay hosts apply --help\n",
    subcommands=(
        Command(
            "apply",
            "write the names into the hosts file",
            _APPLY,
            _APPLY_EXAMPLES,
            _add_apply_arguments,
            run="hosts:run_apply",
        ),
        Command(
            "remove",
            "remove the names from the hosts file",
            _REMOVE,
            "example:\n  sudo hybridrelay hosts remove\n",
            _add_hosts_file,
            run="hosts:run_remove",
        ),
        Command(
            "show",
            "show the names in the hosts file",
            _SHOW,
            "example:\n  hybridrelay hosts show\n",
            _add_show_arguments,
            run="hosts:run_show",
        ),
    ),
)
