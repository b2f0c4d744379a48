"""The command ``hybridrelay``: parses arguments, calls the other packages, and prints.

No other package imports this one. The code of a command is imported when the command is run, so that ``--help`` is
quick.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .signals import Signals

#: The exit code after Ctrl-C, by the convention of shells: 128 plus the signal's number.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; the entry point of the console script.

    Args:
        argv: the arguments. None means those of this process, which is then expected to end soon, so its signal
            handlers are not restored.
    """
    from .signals import Signals

    signals = Signals()
    if argv is not None:
        with signals.handled():
            return _run(argv, signals)
    signals.install()
    try:
        return _run(argv, signals)
    finally:
        signals.leave()
        # While it shuts down, the interpreter looks for cycles among all objects that are not frozen. For those of a
        # service, this would take more than a quarter of the processor time that it needs to start and to end.
        gc.freeze()


def _run(argv: Sequence[str] | None, signals: Signals) -> int:
    from . import output

    output.open_standard_streams()
    try:
        from .program import run_program

        return run_program(argv, signals)
    except KeyboardInterrupt:
        return INTERRUPTED
