"""Exit codes."""

from __future__ import annotations

#: Success; also for a long-running command that was stopped on request.
OK = 0
#: Something failed at run time: no route, a refused key, a full disk.
FAILED = 1
#: Unusable input: arguments, files, a state directory. The same code as argparse uses.
USAGE = 2
#: A bug: EX_SOFTWARE in sysexits.h.
BUG = 70
#: Ended by a signal before the work was done: this plus the signal's number, as in shells (130 for Ctrl-C).
SIGNAL = 128
