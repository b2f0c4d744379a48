"""The arguments of ``hybridrelay connections set-target``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from .options import add_name, add_target, add_update

_TARGET = """\
Change the target of a hybrid connection: what the connector connects to, such as a host and port. Only the
connector's connection strings and the authority file contain it, so neither the relay nor the applications have to be
changed.

Name the files with --update. A connector that runs with these files uses the new target within seconds: new
connections go there, and open ones are not affected.
"""
_TARGET_EXAMPLE = """\
example:
  hybridrelay connections set-target orders --target db2.internal:5432 \\
      --update orders.connector orders.authority
"""


def _add_arguments(parser: Parser) -> None:
    add_name(parser)
    add_target(parser)
    add_update(
        parser, means="connection string files of connectors, and authority files, to write the new target into"
    )


SET_TARGET = Command(
    "set-target",
    "change what the connector connects to",
    _TARGET,
    _TARGET_EXAMPLE,
    _add_arguments,
    run="set_target:run_set_target",
)
