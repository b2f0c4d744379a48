"""``hybridrelay demo``."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from .. import exits
from ..demo.show import Show
from ..running import run_until_stopped


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    directories: list[str] = []
    shows: list[Show] = []

    async def main() -> None:
        # The directory is created only here, where a signal no longer ends the process before it is removed.
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
