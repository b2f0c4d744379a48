"""The cases of which a scenario consists."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ..stage import Outcome, Stage
from ..systems import System


@attrs.frozen
class Case:
    """One thing to measure, for each system in turn."""

    #: Scenario, a slash, and what varies in it.
    name: str
    #: One line for people.
    title: str
    #: Measures one system once.
    measure: Callable[[Stage, System], Outcome]
    rounds: int
    #: About how long one measurement takes, for the estimate of the remaining time.
    seconds: float
    #: Whether it makes sense for a system.
    suits: Callable[[System], bool] = lambda system: True
    #: What is missing on this machine, as (reason, how to get it); None if it can be measured.
    missing: Callable[[], tuple[str, str] | None] = lambda: None
