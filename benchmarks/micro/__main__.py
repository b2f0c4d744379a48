"""``python -m benchmarks.micro``, which accepts pyperf's options."""

from __future__ import annotations

import os

import pyperf

from . import cores, streams
from .suite import ONLY


class _Chosen:
    """pyperf's runner, restricted to the chosen benchmarks."""

    def __init__(self, runner: pyperf.Runner) -> None:
        self._runner = runner
        self._only = tuple(filter(None, os.environ.get(ONLY, "").split(",")))

    def bench_time_func(self, name: str, *arguments: object, **options: object) -> None:
        if not self._only or name.startswith(self._only):
            self._runner.bench_time_func(name, *arguments, **options)


def main() -> None:
    """Run the benchmarks."""
    runner = _Chosen(pyperf.Runner(program_args=("-m", __package__)))
    cores.add(runner)
    streams.add(runner)


if __name__ == "__main__":
    main()
