"""``hybridrelay demo``."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from functools import partial
from pathlib import Path

from .. import exits
from ..parser import Subparsers, add_command

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


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "demo", "see it work, on this machine alone", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("--keep", action="store_true", help="stay until Ctrl-C, with a local port to try")
    parser.set_defaults(run=run, default_log_level="error")


def run(args: argparse.Namespace) -> int:
    """Play the demo."""
    from ..demo.show import Show
    from ..running import run_until_stopped

    with tempfile.TemporaryDirectory(prefix="hybridrelay-demo-") as name:
        show = Show(Path(name))
        stopped_by = run_until_stopped(
            partial(show.play, keep=args.keep), on_abort=partial(shutil.rmtree, name, ignore_errors=True)
        )
    return exits.OK if stopped_by is None or show.is_ready else exits.SIGNAL + stopped_by
