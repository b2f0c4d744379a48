"""What the policy decides about a connection string."""

from __future__ import annotations

import hashlib

from ..errors import DeniedByPolicy
from ..security import ConnectionString, Target
from .decision import Decision, Resource

__all__ = ["authority_digest", "denied", "resource_of"]


def denied(name: str, denial: Decision) -> DeniedByPolicy:
    """Return the error for a hybrid connection that the policy does not allow."""
    return DeniedByPolicy(
        f"{name} is denied by policy: {denial.rule}",
        remedy="use what the policy allows (hybridrelay policy show), or have the policy changed",
    )


def authority_digest(string: ConnectionString) -> str:
    """Return the SHA-256 of the authority's certificate, in hexadecimal; empty if the string has none."""
    return "" if string.authority is None else hashlib.sha256(string.authority).hexdigest()


def resource_of(string: ConnectionString, target: Target | None) -> Resource:
    """Return the resource for requests about this connection string.

    Args:
        string: the connection string.
        target: the target, or for `Action.FORWARD` the local address.
    """
    return Resource(
        string.entity_path,
        target,
        relays=tuple(endpoint.host for endpoint in string.endpoints),
        pins=string.relay_pins,
        authority=authority_digest(string),
    )
