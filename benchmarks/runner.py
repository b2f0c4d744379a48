"""Measures every case for every system, in turn."""

from __future__ import annotations

import datetime as dt
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import attrs

from .environment import describe_machine, describe_versions
from .limits import raise_descriptor_limit
from .model import Run, Sample, Skipped
from .plan import Plan
from .programs import ProgramError
from .progress import Progress
from .scenarios import Case
from .stage import Stage
from .systems import System

#: How long the start of one system is expected to take (seconds).
_DEPLOY_SECONDS = 1.0
#: After this many failures in a case, a system is not tried in the other rounds.
_FAILURES = 2


def in_turns(systems: Sequence[System], round_: int) -> list[System]:
    """Return the order of one round. Each round begins with another system, so that none always comes first."""
    if not systems:
        return []
    first = round_ % len(systems)
    return [*systems[first:], *systems[:first]]


def measure_all(
    cases: Sequence[Case], systems: Sequence[System], skipped: Sequence[Skipped], plan: Plan, messages: TextIO
) -> Run:
    """Measure all cases. After Ctrl-C or SIGTERM, return the results so far, without an exception.

    Args:
        cases: what to measure.
        systems: the systems to measure.
        skipped: the systems that could not be measured, for the results.
        plan: how often and how long to measure.
        messages: the stream on which progress is shown.
    """
    raise_descriptor_limit()
    run = Run(
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        machine=describe_machine(),
        versions=describe_versions(),
        parameters=plan.as_parameters(),
        skipped=tuple(skipped),
        complete=False,
    )
    samples: list[Sample] = []
    expected = sum(_expected(case, _suitable(case, systems)) for case in cases)
    progress = Progress(messages, expected)
    complete = False
    with _sigterm_is_ctrl_c(), tempfile.TemporaryDirectory(prefix="hybridrelay-bench-") as directory:
        # Servers that drop their privileges need access to their own directories in this one.
        os.chmod(directory, 0o711)
        try:
            with Stage(Path(directory)) as stage:
                _Measuring(stage, progress, samples.append).run(cases, systems)
            complete = True
        except KeyboardInterrupt:
            progress.say("interrupted; the results so far are kept")
    progress.close()
    return attrs.evolve(run, samples=tuple(samples), complete=complete)


class _Measuring:
    def __init__(self, stage: Stage, progress: Progress, keep: Callable[[Sample], None]) -> None:
        self._stage = stage
        self._progress = progress
        self._keep = keep
        #: How often a system failed in a case.
        self._failures: Counter[tuple[str, str]] = Counter()

    def run(self, cases: Sequence[Case], systems: Sequence[System]) -> None:
        scenario = ""
        for case in cases:
            if case.name.partition("/")[0] != scenario:
                # Ensure that no process of an earlier scenario is still running, retransmitting or cleaning up.
                self._stage.clear()
                scenario = case.name.partition("/")[0]
            suitable = _suitable(case, systems)
            for round_ in range(case.rounds):
                for system in in_turns(suitable, round_):
                    self._progress.show(case.name, system.name)
                    if self._failures[case.name, system.name] < _FAILURES:
                        self._keep(self._measure(case, system, round_))
                    self._progress.advance(case.seconds + (0 if round_ else _DEPLOY_SECONDS))

    def _measure(self, case: Case, system: System, round_: int) -> Sample:
        try:
            outcome = case.measure(self._stage, system)
        except (ProgramError, OSError) as exc:
            self._failures[case.name, system.name] += 1
            self._progress.say(f"{case.name} on {system.name} failed: {exc}")
            return Sample(case.name, system.name, round_, error=str(exc).splitlines()[0])
        return Sample(case.name, system.name, round_, outcome.metrics, outcome.usage)


def _suitable(case: Case, systems: Sequence[System]) -> list[System]:
    return [system for system in systems if case.suits(system)]


def _expected(case: Case, systems: Sequence[System]) -> float:
    return (case.rounds * case.seconds + _DEPLOY_SECONDS) * len(systems)


@contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C during the block, so that the results so far are kept."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
