"""Waiting until the audit log has what the policy requires, before a connector does anything for a client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..audit.record import NotRecordedError
from ..policy import Policy

__all__ = ["wait_recorded"]


async def wait_recorded(recorded: Callable[[], Awaitable[None]] | None, policy: Policy) -> None:
    """Wait until the audit log has what was published so far, in all sinks that have to have it.

    Args:
        recorded: waits for the audit log (see `StreamService`); None: the connector has no audit log.
        policy: the policy that is in force.

    Raises:
        NotRecordedError: a required sink cannot be written, a required witness is overdue, or there is none.
    """
    if recorded is not None:
        await recorded()
    elif required := policy.required_audit:
        raise NotRecordedError(f"the policy requires an audit log ({', '.join(sorted(required))})")
    elif policy.audit_witnesses:
        raise NotRecordedError("the policy requires relays that keep checkpoints of the audit log")
