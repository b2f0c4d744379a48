"""Programs that record which of their functions are called.

The test divides the time into *phases*. In each phase, a program records the first call of each function. Calls that
are made while a module is imported do not count.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from functools import cache
from pathlib import Path

import attrs

from ..deployments import starting_with
from .acting import MIN_LINES, is_helper, module_at

#: Executed at the start of a program. A class body is not optimized, and no call. The workers of a relay are started
#: in another way than by ``-m hybridrelay``, and record nothing.
_CODE = """\
import inspect, mmap, os, sys, threading, time

def record(phase, calls):
    with open(phase, "rb") as file:
        current = mmap.mmap(file.fileno(), 1, prot=mmap.PROT_READ)
    log = os.open(calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    seen = {}

    def is_importing(frame):
        while frame is not None:
            code = frame.f_code
            if code.co_name == "<module>" and not code.co_filename.endswith("__main__.py"):
                return True
            frame = frame.f_back
        return False

    def see(frame, event, argument):
        code, number = frame.f_code, current[0]
        if event != "call" or seen.get(code) == number:
            return
        if "hybridrelay" not in code.co_filename or not code.co_flags & inspect.CO_OPTIMIZED:
            seen[code] = number
        elif not is_importing(frame):
            seen[code] = number
            lines = len({line for _, _, line in code.co_lines() if line is not None})
            fields = number, time.monotonic_ns(), lines, code.co_filename, code.co_qualname
            os.write(log, ("\\t".join(map(str, fields)) + "\\n").encode())

    threading.setprofile(see)
    sys.setprofile(see)

if "hybridrelay" in sys.orig_argv:
    record({phase!r}, {calls!r})
"""


@attrs.frozen
class Call:
    """The first call of a function in a phase."""

    phase: int
    #: When it was, in nanoseconds, on a clock that all programs share.
    time: int
    #: As in docs/architecture.md.
    module: str
    function: str
    #: Whether the function does something, and not only answers a question.
    does_something: bool


@cache
def _module_of(filename: str) -> str | None:
    if not filename.startswith("<"):
        return module_at(Path(filename))
    # What attrs has generated has the name of the class in that of its file: "<attrs generated init MODULE.CLASS>".
    match = re.search(r"hybridrelay(?:\.\w+)+", filename)
    parts = [] if match is None else match[0].split(".")[1:]
    while parts:
        name = f"{'/'.join(parts)}.py"
        if (Path(__file__).parents[2] / "hybridrelay" / name).exists():
            return name
        parts.pop()
    return None


class Recorded:
    """What programs have recorded.

    Args:
        directory: for the files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._phase_file = directory / "phase"
        self._phase_file.write_bytes(b"\0")
        #: The current phase.
        self.phase = 0

    def wrapper(self, program: str) -> tuple[str, ...]:
        """What comes before the command of a program, so that it records under this name."""
        code = _CODE.replace("{phase!r}", repr(str(self._phase_file))).replace(
            "{calls!r}", repr(str(self._directory / f"{program}.calls"))
        )
        return starting_with(code, self._directory / f"{program}-recording")

    def begin(self) -> int:
        """Begin another phase; its number."""
        self.phase += 1
        with self._phase_file.open("r+b") as file:
            file.write(bytes([self.phase]))
        return self.phase

    def calls(self, program: str) -> list[Call]:
        """All calls that a program has recorded, in order."""
        found = []
        text = (self._directory / f"{program}.calls").read_text()
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):  # otherwise, it is being written
                phase, time, lines, filename, function = line.rstrip("\n").split("\t")
                if (module := _module_of(filename)) is not None:
                    does_something = int(lines) >= MIN_LINES and not filename.startswith("<")
                    found.append(Call(int(phase), int(time), module, function, does_something))
        return sorted(found, key=lambda call: call.time)


@attrs.frozen
class Acted:
    """When the modules of a program acted in a phase, for the first time."""

    #: When a function was called, whichever it was.
    called: dict[str, int]
    #: When a function was called that does something, and that is not called all the time.
    did_something: dict[str, int]

    @classmethod
    def of(cls, calls: Iterable[Call], usual: Container[tuple[str, str]], *, first: Container[str]) -> Acted:
        """Take the calls of one phase.

        Args:
            calls: the calls, in order.
            usual: modules and functions that are called all the time.
            first: the modules that act first. What others do before that has another cause.
        """
        has_begun = False
        called: dict[str, int] = {}
        did_something: dict[str, int] = {}
        for call in calls:
            called.setdefault(call.module, call.time)
            if (call.module, call.function) in usual:
                continue
            has_begun = has_begun or call.module in first
            if has_begun and call.does_something and not is_helper(call.module):
                did_something.setdefault(call.module, call.time)
        return cls(called, did_something)
