"""The command ``hybridrelay``: composes the other packages, and implements nothing of them.

Nothing imports this package. Its own modules import what is heavy where it is used, so that ``--help`` is quick.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Ctrl-C, as shells have it: 128 and the signal's number.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; the entry point of the console script.

    Args:
        argv: the arguments; None means those of this process.
    """
    from . import output

    output.open_standard_streams()
    try:
        from .program import run_program

        return run_program(argv)
    except KeyboardInterrupt:  # where nothing runs for long; what does has its own handling of signals
        return INTERRUPTED
