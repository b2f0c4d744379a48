"""The programs that are seen while a key is rolled, as values. Pure."""

from __future__ import annotations

from typing import Final

import attrs

from ..protocol.control import KeptState

__all__ = ["MAX_PROGRAMS", "MAX_PROGRAMS_OF_RELAY", "Program"]

#: How many programs the rolls of one hybrid connection remember together, and those of a relay (`core.room`). If
#: there are more programs, the old key is revoked at the end of the grace period.
MAX_PROGRAMS: Final = 10_000
MAX_PROGRAMS_OF_RELAY: Final = 50_000


@attrs.define
class Program:
    """A program that was seen during a roll."""

    instance: str
    address: str
    role: str
    #: What it has answered last; None if nothing.
    state: KeptState | None = None
    detail: str = ""
    #: Whether it has a control channel now.
    is_connected: bool = True
    #: How many more answers are noted until it is asked again. Each is an event.
    answers_left: int = 0
