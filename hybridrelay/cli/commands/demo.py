"""``hybridrelay demo``."""

from __future__ import annotations

import argparse
import shutil
import tempfile
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

    directories: list[str] = []
    shows: list[Show] = []

    async def main() -> None:
        # Made only here, where a signal is no sudden end any more.
        with tempfile.TemporaryDirectory(prefix="hybridrelay-demo-") as directory:
            directories.append(directory)
            shows.append(Show(Path(directory)))
            await shows[0].play(keep=args.keep)

    def remove_all() -> None:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)

    stopped_by = run_until_stopped(main, on_abort=remove_all)
    if stopped_by is None or any(show.is_ready for show in shows):
        return exits.OK
    return exits.SIGNAL + stopped_by
