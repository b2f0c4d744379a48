"""Refuses what the policy of this machine does not allow, in commands that create or change hybrid connections."""

from __future__ import annotations

from collections.abc import Sequence

from ..policy import Action, Resource, denied, policy_sources, read_policy
from ..security import Target

__all__ = ["refuse_denied"]


def refuse_denied(
    name: str, target: Target, hosts: Sequence[str] = (), pins: Sequence[str] = (), *, where: str = ""
) -> None:
    """Check whether the policy of this machine allows publishing a hybrid connection.

    Args:
        name: the hybrid connection.
        target: its target.
        hosts, pins: the hosts and the pins of its relays.
        where: where it is in a file, for the message.

    Raises:
        DeniedByPolicy: it does not.
        ConfigurationError: the policy cannot be read, or is not valid.
    """
    resource = Resource(name, target, relays=tuple(hosts), pins=tuple(pins))
    decision = read_policy(policy_sources()).decide(None, Action.PUBLISH, resource)
    if decision.reason is not None:
        raise denied(f"{where}: {name}" if where else name, decision)
