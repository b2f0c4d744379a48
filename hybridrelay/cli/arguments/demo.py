"""The arguments of ``hybridrelay demo``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser

_DESCRIPTION = """\
See it work: relay, a sample on-premises HTTP server, connector and client in one process, on free ports of this
machine. Needs no configuration, no root and no network, takes about ten seconds, and leaves no files.

It shows what the prober finds, makes real requests over native TCP and over WebSocket, and measures both.
"""
_EXAMPLES = """\
examples:
  hybridrelay demo
  stay, with a local port to try with curl:
    hybridrelay demo --keep
"""


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("--keep", action="store_true", help="stay until Ctrl-C, with a local port to try")


COMMAND = Command(
    "demo",
    "see it work, on this machine alone",
    _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    run="demo:run",
    log_level="error",
)
