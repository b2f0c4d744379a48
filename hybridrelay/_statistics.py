"""Statistics of a running program, for administrators and for finding leaks.

Objects that hold resources (a session, the relay) report while they run. `program_statistics` adds up what is
reported in the current Trio run, and adds the tasks of the run and the open descriptors of the process.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import attrs
import trio

from ._value import Value


class Reporter(Protocol):
    """An object that reports numbers about its resources."""

    def statistics(self) -> Mapping[str, int]:
        """Return numbers by name. Those of all reporters are added up, so zeros can be omitted."""


#: The reporters, by a token of each `reporting` block: one reporter may be in several blocks.
_REPORTERS: trio.lowlevel.RunVar[dict[object, Reporter]] = trio.lowlevel.RunVar("hybridrelay reporters")


@contextmanager
def reporting(*reporters: Reporter) -> Iterator[None]:
    """Include these reporters in `program_statistics` during the block. A reporter in several blocks is counted
    once."""
    try:
        running = _REPORTERS.get()
    except LookupError:
        running = {}
        _REPORTERS.set(running)
    tokens = {object(): reporter for reporter in reporters}
    running.update(tokens)
    try:
        yield
    finally:
        for token in tokens:
            del running[token]


@attrs.frozen
class ProgramStatistics(Value):
    """A snapshot of a running program."""

    #: The number of tasks of the Trio run, by the name of their function; includes Trio's own tasks.
    tasks: Mapping[str, int]
    #: The numbers of all reporters. A missing name means 0.
    counts: Mapping[str, int]
    #: The number of open descriptors of the process; None if the platform does not provide it.
    descriptors: int | None
    #: The resident memory of the process (bytes); None if the platform does not provide it.
    resident_bytes: int | None

    def as_dict(self) -> dict[str, object]:
        """Return the snapshot for JSON."""
        return {
            "tasks": sum(self.tasks.values()),
            **self.counts,
            "descriptors": self.descriptors,
            "resident_bytes": self.resident_bytes,
            "tasks_by_name": dict(sorted(self.tasks.items())),
        }


def program_statistics() -> ProgramStatistics:
    """Take a snapshot of the current Trio run and of the process."""
    counts: Counter[str] = Counter()
    for reporter in {id(reporter): reporter for reporter in _REPORTERS.get({}).values()}.values():
        counts.update(reporter.statistics())
    return ProgramStatistics(
        tasks=Counter(task.name for task in _tasks()),
        counts=dict(counts),
        descriptors=open_descriptors(),
        resident_bytes=_resident_bytes(),
    )


def _tasks() -> Iterator[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        yield task
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def open_descriptors() -> int | None:
    """Return how many descriptors the process has open; None if the platform does not report it.

    It takes time in proportion to their number.
    """
    try:
        return len(os.listdir("/dev/fd")) - 1  # without the one that lists them
    except OSError:  # Windows; or there is none left to list them with
        return None


def _resident_bytes() -> int | None:
    if sys.platform != "linux":
        return None
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return None
