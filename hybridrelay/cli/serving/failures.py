"""Deciding what becomes of a hybrid connection whose client has failed while a forward or `run` is running. Pure.

A client fails when every relay refuses its connection string. Somebody may have changed that string at the same
time, so the files are read once more before this is decided (`LastLook`). The rules, of which the first that applies
counts:

1. What was stopped, or replaced by another client, ends without a word.
2. If it has been given another connection string, another client serves with that one at the same ports.
3. If it is the last one that the program serves, the program ends with the failure.
4. Otherwise its ports are closed, which is reported, and the others continue.

It is decided while no change of the configuration is applied. So what a change begins with, such as the ports that it
hands over, does not end before the change is complete.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

__all__ = ["AfterFailure", "LastLook", "after_failure"]

#: Reads the files once more, and applies what has changed. No change is applied while its block runs.
LastLook: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


class AfterFailure(enum.Enum):
    """What happens next; see the rules."""

    END = enum.auto()
    SERVE_AGAIN = enum.auto()
    END_PROGRAM = enum.auto()
    CLOSE_PORTS = enum.auto()


def after_failure(*, is_ending: bool, has_other_string: bool, is_last: bool) -> AfterFailure:
    """Decide what becomes of a hybrid connection whose client has failed.

    Args:
        is_ending: whether it was stopped or replaced.
        has_other_string: whether its connection string is another one than that which has failed.
        is_last: whether the program serves nothing else, and ends when nothing is served.
    """
    if is_ending:
        return AfterFailure.END
    if has_other_string:
        return AfterFailure.SERVE_AGAIN
    return AfterFailure.END_PROGRAM if is_last else AfterFailure.CLOSE_PORTS
