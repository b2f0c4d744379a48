"""Limits for callers with a scope: how often they change something, and how many hybrid connections they create.

A token with a scope is for a tenant, and a key with the right Manage is for the manager of one hybrid connection.
What they do must not take the relay from the others. Callers without a scope are administrators of the whole relay,
and are not limited by this.
"""

from __future__ import annotations

import math
from typing import Final

import trio

from ..relay.store.store import Store
from .callers import Caller
from .problem_kinds import Problem
from .problems import problem
from .rates import Buckets

__all__ = [
    "CHANGES_BURST",
    "CHANGES_PER_SECOND",
    "KEYS_BURST",
    "KEYS_PER_SECOND",
    "MAX_CONNECTIONS",
    "ScopedChanges",
    "check_room",
]

#: Changes, and requests that show keys, of one caller: the sustained rate per second, and the burst.
CHANGES_PER_SECOND: Final = 2.0
CHANGES_BURST: Final = 100
#: The limits of all keys of a tenant together. A caller who may create hybrid connections can make keys for
#: each of them.
KEYS_PER_SECOND: Final = 3 * CHANGES_PER_SECOND
KEYS_BURST: Final = 3 * CHANGES_BURST
#: A caller with a scope creates a hybrid connection only if there are fewer than this in its scope.
MAX_CONNECTIONS: Final = 1000


class ScopedChanges:
    """Counts the changes of callers with a scope."""

    def __init__(self) -> None:
        """Begin with full buckets."""
        self._buckets = Buckets(rate=CHANGES_PER_SECOND, burst=CHANGES_BURST)
        self._of_tenants = Buckets(rate=KEYS_PER_SECOND, burst=KEYS_BURST)

    def admit(self, caller: Caller) -> None:
        """Count a change of this caller.

        Raises:
            RequestError: 429: there were too many. Nothing was changed.
        """
        if caller.scope.is_everything:
            return
        now = trio.current_time()
        of_caller = self._buckets.wait(caller.limit_group, now)
        of_tenant = self._of_tenants.wait(caller.tenant_group, now)
        if of_caller <= 0 and of_tenant <= 0:
            self._buckets.take(caller.limit_group, now)
            self._of_tenants.take(caller.tenant_group, now)
            return
        wait = max(of_caller, of_tenant)
        who, rate, burst = "a caller with a scope", CHANGES_PER_SECOND, CHANGES_BURST
        if of_tenant > of_caller:
            who, rate, burst = f"all keys for {caller.tenant} together", KEYS_PER_SECOND, KEYS_BURST
        raise problem(
            Problem.RATE,
            f"{who} may make {rate:g} changes a second, after a burst of {burst}; nothing was changed",
            remedy="send the request again after the time in Retry-After, or ask an administrator of the relay",
            headers=(("Retry-After", str(math.ceil(wait))),),
        )


def check_room(caller: Caller, store: Store) -> None:
    """Check whether a caller may create another hybrid connection. Reads the store, so call it in a thread.

    Raises:
        RequestError: 409: there are too many in its scope. Nothing was changed.
    """
    if caller.scope.is_everything or store.count(caller.scope.prefix) < MAX_CONNECTIONS:
        return
    raise problem(
        Problem.QUOTA,
        f"the scope {caller.scope.prefix} has {MAX_CONNECTIONS} hybrid connections, and a caller with a scope cannot "
        "create more; nothing was changed",
        remedy="delete those that are not needed, or ask an administrator of the relay, who can create more",
    )
