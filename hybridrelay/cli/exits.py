"""Exit codes."""

from __future__ import annotations

#: Ended as asked for; also a long-running command that was told to stop.
OK = 0
#: Something failed at run time: no route, a refused key, a full disk.
FAILED = 1
#: What was given cannot be used: arguments, files, a state directory. As argparse has it.
USAGE = 2
#: A bug. As EX_SOFTWARE in sysexits.h.
BUG = 70
#: Ended by a signal before the work was done: this plus its number, as shells have it (130 for Ctrl-C).
SIGNAL = 128
