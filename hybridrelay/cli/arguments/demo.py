"""The arguments of ``hybridrelay demo``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser

_DESCRIPTION = """\
See how it works: a relay, a connector, a client, and a sample HTTP server as the target, in one process, on free
ports of this machine. It needs no configuration, no root and no network, takes about ten seconds, and leaves no
files.

It shows which routes the prober finds, makes real requests over native TCP and over WebSocket, and measures both.
"""
_EXAMPLES = """\
examples:
  hybridrelay demo
  keep it running, with a local port to try with curl:
    hybridrelay demo --keep
"""


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("--keep", action="store_true", help="keep running until Ctrl-C, with a local port to try")


COMMAND = Command(
    "demo",
    "see how it works, on this machine only",
    _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    run="demo:run",
    log_level="error",
)
