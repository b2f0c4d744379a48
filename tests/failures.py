"""Why tests failed, in few lines, so that it can be read at the end of a long log of which only the end was kept."""

from __future__ import annotations

import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path

__all__ = ["describe_failure"]

_TESTS = Path(__file__).parent
#: How many lines of a message are shown at its beginning and its end, which may be the output of a program.
_FIRST_LINES, _LAST_LINES = 12, 8
_MAX_LINE = 300
_MAX_EXCEPTIONS = 5


def describe_failure(exc: BaseException) -> str:
    """The type, the message and the place of an exception; of a group, those of what it contains.

    A failed program's last lines on standard error belong to the message.
    """
    leaves = list(_leaves(exc))
    described = [_describe(leaf) for leaf in leaves[:_MAX_EXCEPTIONS]]
    if more := leaves[_MAX_EXCEPTIONS:]:
        described.append(f"and {len(more)} more")
    return "\n".join(described)


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def _describe(exc: BaseException) -> str:
    lines = f"{type(exc).__name__}: {exc}".splitlines()
    if isinstance(exc, subprocess.CalledProcessError) and exc.stderr:
        stderr = exc.stderr if isinstance(exc.stderr, str) else exc.stderr.decode(errors="replace")
        lines += [f"stderr: {line}" for line in stderr.splitlines()[-_LAST_LINES:]]
    if len(lines) > _FIRST_LINES + _LAST_LINES:
        lines = [*lines[:_FIRST_LINES], "[...]", *lines[-_LAST_LINES:]]
    lines = [line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}[...]" for line in lines]
    return "\n".join([*lines, *_place(exc)])


def _place(exc: BaseException) -> list[str]:
    """The last line of the tests that the exception came through, and where it was raised."""
    frames = traceback.extract_tb(exc.__traceback__)
    tests = [frame for frame in frames if _TESTS in Path(frame.filename).parents]
    shown = dict.fromkeys(
        f"  at {frame.filename}:{frame.lineno} ({frame.name})" for frame in (*tests[-1:], *frames[-1:])
    )
    return [line.replace(f"{_TESTS.parent}/", "") for line in shown]
