"""Measures the resource usage of processes with ``/proc``. There are no figures on systems other than Linux."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
#: Writing this to ``clear_refs`` resets the peak of memory (proc(5)).
_RESET_PEAK = "5"


def process_tree(pids: Iterable[int]) -> list[int]:
    """Return these processes and all of their descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            children.setdefault(_fields(int(entry.name))[1], []).append(int(entry.name))
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time used so far, in user space and in the kernel (seconds); 0 for a process that has
    ended."""
    try:
        # The kernel may count nanoseconds here; the usual figures have a resolution of 10 ms.
        tasks = (_PROC / str(pid) / "task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except (OSError, IndexError, ValueError):
        pass
    try:
        fields = _fields(pid)
    except (OSError, ValueError):
        return 0.0
    return (fields[11] + fields[12]) / _TICKS


def memory_bytes(pid: int, *, peak: bool = False) -> int:
    """Return the resident memory, current or at its peak since `reset_peak` (bytes); 0 for a process that has
    ended."""
    try:
        status = (_PROC / str(pid) / "status").read_text()
    except OSError:
        return 0
    match = re.search(rf"^Vm{'HWM' if peak else 'RSS'}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def reset_peak(pid: int) -> None:
    """Reset the peak of `memory_bytes`, if the system allows it."""
    with contextlib.suppress(OSError):
        (_PROC / str(pid) / "clear_refs").write_text(_RESET_PEAK)


class Sampler:
    """Measures the usage of several roles between `begin` and `end`.

    Args:
        pids: the processes of each role, including their descendants: see `process_tree`.
    """

    def __init__(self, pids: Mapping[str, Iterable[int]]) -> None:
        self._pids = {role: list(ids) for role, ids in pids.items()}
        self._before: dict[str, float] = {}

    def begin(self) -> None:
        """Begin the measurement."""
        for ids in self._pids.values():
            for pid in ids:
                reset_peak(pid)
        self._before = self._cpu()

    def end(self) -> dict[str, dict[str, float]]:
        """Return the usage since `begin`: by role, the fields of `model.Usage`."""
        after = self._cpu()
        return {
            role: {
                "cpu_seconds": after[role] - self._before[role],
                "peak_bytes": sum(memory_bytes(pid, peak=True) for pid in ids),
            }
            for role, ids in self._pids.items()
        }

    def _cpu(self) -> dict[str, float]:
        return {role: sum(map(cpu_seconds, ids)) for role, ids in self._pids.items()}


def _fields(pid: int) -> list[int]:
    """Return the numbers in ``stat`` after the name: [1] is the parent, [11] and [12] the ticks used."""
    text = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return [0, *map(int, text[1:])]
