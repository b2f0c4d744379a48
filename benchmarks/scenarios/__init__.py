"""The scenarios by name. Each yields its cases for a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..plan import Plan
from .base import Case as Case
from .databases import pgbench, redis
from .endurance import cold, idle, reconnect, restart
from .lines import line
from .streams import bulk, chatty, opens, requests

SCENARIOS: dict[str, Callable[[Plan], Iterator[Case]]] = {
    "bulk": bulk,
    "requests": requests,
    "open": opens,
    "chatty": chatty,
    "pgbench": pgbench,
    "redis": redis,
    "line": line,
    "cold": cold,
    "reconnect": reconnect,
    "restart": restart,
    "idle": idle,
}


def choose_cases(plan: Plan, only: list[str] | None) -> list[Case]:
    """Return the cases whose names begin with one of `only`; all cases if `only` is None.

    Raises:
        ValueError: an item of `only` matches no case.
    """
    cases = [case for scenario in SCENARIOS.values() for case in scenario(plan)]
    if only is None:
        return cases
    for prefix in only:
        if not any(_fits(case, prefix) for case in cases):
            raise ValueError(f"no case {prefix!r}; there are: {', '.join(case.name for case in cases)}")
    return [case for case in cases if any(_fits(case, prefix) for prefix in only)]


def _fits(case: Case, prefix: str) -> bool:
    return case.name == prefix or case.name.startswith(prefix.rstrip("/") + "/")
