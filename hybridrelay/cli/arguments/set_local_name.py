"""The arguments of ``hybridrelay connections set-local-name``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_name, add_update

_LOCAL_NAME = """\
Change the local name of a hybrid connection: the name and port under which applications know the target, if they are
to keep their configuration ('run', 'hosts', 'forward --socks'). Only the applications' connection strings and the
authority file contain it, so neither the relay nor the connector has to be changed.

Name the files with --update. A forward that runs with these files uses the new local name within seconds.
"""
_LOCAL_NAME_EXAMPLE = """\
examples:
  hybridrelay connections set-local-name orders \\
      --local-name sql01.corp.example:1433 \\
      --update orders.application orders.authority
  hybridrelay connections set-local-name orders --local-name none \\
      --update orders.application
"""


def _add_arguments(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument(
        "--local-name",
        metavar="HOST:PORTS",
        type=values.local_name,
        required=True,
        help="the new local name; none for no local name",
    )
    add_update(
        parser, means="connection string files of applications, and authority files, to write the local name into"
    )


SET_LOCAL_NAME = Command(
    "set-local-name",
    "change the name under which applications know the target",
    _LOCAL_NAME,
    _LOCAL_NAME_EXAMPLE,
    _add_arguments,
    run="set_local_name:run_set_local_name",
)
