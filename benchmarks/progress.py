"""A progress bar, and an estimate of the remaining time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

_WIDTH = 24


class Estimate:
    """Estimates the remaining time from the ratio of the elapsed time to the expected time of the finished steps.

    Args:
        expected: the expected duration of all steps together (seconds).
        clock: returns the time (seconds).
    """

    def __init__(self, expected: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._expected = expected
        self._clock = clock
        self._began = clock()
        self._done = 0.0

    def advance(self, expected: float) -> None:
        """Note that a step is done that was expected to take `expected` seconds."""
        self._done += expected

    @property
    def part(self) -> float:
        """The fraction that is done, from 0 to 1."""
        return min(self._done / self._expected, 1.0) if self._expected else 1.0

    @property
    def left(self) -> float:
        """The remaining time (seconds)."""
        # The first steps predict little, so the expected time counts as much as a tenth of all steps.
        weight = self._expected / 10
        factor = (self._clock() - self._began + weight) / (self._done + weight) if self._expected else 1.0
        return max(self._expected - self._done, 0.0) * factor


class Progress:
    """Shows the progress: in one line that is overwritten on a terminal, and otherwise in a line for each case."""

    def __init__(self, stream: TextIO, expected: float) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._estimate = Estimate(expected)
        self._case = ""
        self._width = 0

    def show(self, case: str, system: str) -> None:
        """Show what is being measured now."""
        if self._live:
            filled = round(self._estimate.part * _WIDTH)
            bar = "#" * filled + "." * (_WIDTH - filled)
            self._write(f"[{bar}] {self._estimate.part:4.0%}  {self._left()} left  {case}  {system}")
        elif case != self._case:
            print(f"{self._estimate.part:4.0%}  {self._left()} left  {case}", file=self._stream, flush=True)
        self._case = case

    def advance(self, expected: float) -> None:
        """See `Estimate.advance`."""
        self._estimate.advance(expected)

    def say(self, text: str) -> None:
        """Print a line that is not overwritten."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave an empty line."""
        self._clear()

    def _left(self) -> str:
        minutes, seconds = divmod(round(self._estimate.left), 60)
        return f"{minutes}:{seconds:02}"

    def _write(self, text: str) -> None:
        columns = shutil.get_terminal_size().columns - 1
        text = text[:columns]
        print(f"\r{text.ljust(self._width)}", end="", file=self._stream, flush=True)
        self._width = len(text)

    def _clear(self) -> None:
        if self._width:
            self._write("")
            print("\r", end="", file=self._stream, flush=True)
