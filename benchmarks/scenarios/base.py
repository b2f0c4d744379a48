"""The class of the cases of a scenario."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ..stage import Outcome, Stage
from ..systems import System


@attrs.frozen
class Case:
    """One thing to measure, for each system in turn."""

    #: The scenario, a slash, and the variant.
    name: str
    #: A line for people.
    title: str
    #: Measures one system once.
    measure: Callable[[Stage, System], Outcome]
    rounds: int
    #: The approximate time of one measurement (seconds), for the estimate of the remaining time.
    seconds: float
    #: Returns whether the case makes sense for a system.
    suits: Callable[[System], bool] = lambda system: True
    #: Returns what this machine lacks, as (reason, how to get it); None if the case can be measured.
    missing: Callable[[], tuple[str, str] | None] = lambda: None
