"""Ends every process that descends from this one, so that nothing is left of an application.

The kernel ends the application when its parent ends, but not the programs that the application has started. When
the parent of such a program ends, the program becomes a child of its nearest ancestor that is a *subreaper*
(prctl(2), PR_SET_CHILD_SUBREAPER), however it was put into the background. The first process and the client's process
are both subreapers: if one of them is killed, the other one has all of these programs below it.

Only children are killed here, never their children: until a child has been reaped, its process id belongs to it.
When it has ended, its children are children of this process, and are killed next.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

__all__ = ["children", "end_descendants"]

#: How long this waits for processes to end (seconds). The kernel ends them immediately, unless they wait for a disk.
_SECONDS: Final = 10.0
#: How long it waits before it looks again (seconds).
_PAUSE_SECONDS: Final = 0.002


def end_descendants(*, spared: Collection[int] = ()) -> None:
    """Kill and reap all descendants of this process, which is a subreaper.

    Blocks until there are none, for at most ten seconds. A process that is still in uninterruptible sleep by then
    ends as soon as it wakes.

    Args:
        spared: children that are left alone, and are not reaped.
    """
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        found = [pid for pid in children() if pid not in spared]
        if not found:
            return
        for pid in found:
            # If another thread has reaped it, or if the kernel does so because SIGCHLD is ignored, it is gone.
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_PAUSE_SECONDS)


def children() -> list[int]:
    """Return the children of this process, in any order."""
    found: list[int] = []
    files = list(Path("/proc/self/task").glob("*/children"))
    if not files:  # a kernel without CONFIG_PROC_CHILDREN
        return _children_by_parent()
    for file in files:
        with contextlib.suppress(OSError):  # the thread has ended, and its children belong to another one
            found += map(int, file.read_text(encoding="ascii").split())
    return found


def _children_by_parent() -> list[int]:
    ours, found = os.getpid(), []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name of the program, in parentheses, may contain anything.
            fields = (directory / "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[1]) == ours:
                found.append(int(directory.name))
    return found
