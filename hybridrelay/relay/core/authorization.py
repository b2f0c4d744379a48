"""Decides which rights a token gives. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ..._value import Value
from ...errors import AuthorizationError
from ...protocol.reasons import Reason
from ...security import Right, verify_token
from ..model import HybridConnection, KeyId
from .known import KnownConnections

__all__ = ["Authorization", "Grant", "may_have_changed"]

#: Reasons of refusals that a change to the store may resolve.
_MAY_HAVE_CHANGED = frozenset(
    {
        Reason.UNKNOWN_CONNECTION,
        Reason.UNKNOWN_RULE,
        Reason.WRONG_KEY,
        Reason.KEY_REVOKED,
        Reason.RIGHT_MISSING,
        Reason.CONNECTION_DISABLED,
    }
)


@attrs.frozen
class Grant(Value):
    """The result of verifying a token: the key that gives the right, and when the token expires (seconds since
    1970)."""

    connection: HybridConnection
    key: KeyId
    expires_at: float


def may_have_changed(error: AuthorizationError) -> bool:
    """Return whether this refusal may be outdated, because the store has changed and the relay has not noticed
    yet."""
    return error.reason in _MAY_HAVE_CHANGED


class Authorization:
    """Verifies tokens with the hybrid connections and keys that are known now.

    Args:
        connections: the hybrid connections, by name.
    """

    def __init__(self, connections: Mapping[str, HybridConnection]) -> None:
        self.connections = KnownConnections(connections)

    def verify(self, connection: str, token: str, right: Right, now: float) -> Grant:
        """Verify a token; `now` in seconds since 1970.

        Raises:
            AuthorizationError: the token does not give the right; `reason` says why.
        """
        known = self.connections.get(connection)
        if known is None:
            raise AuthorizationError("no such hybrid connection", reason=Reason.UNKNOWN_CONNECTION)
        verified = verify_token(token, hosts=known.hosts, entity=connection, right=right, rules=known.rules, now=now)
        if known.disabled:  # only peers with a valid key learn this
            raise AuthorizationError(Reason.CONNECTION_DISABLED.describe, reason=Reason.CONNECTION_DISABLED)
        key = known.key_id(verified.rule_name, verified.slot)
        assert key is not None, "a key that verified a token is in its rule"
        return Grant(known, key, verified.expires_at)

    def has_right(self, key: KeyId, right: Right) -> bool:
        """Return whether a key that is still valid gives this right."""
        known = self.connections.get(key.connection)
        rule = None if known is None else known.rule(key.rule)
        return rule is not None and rule.allows(right)

    def why_revoked(self, key: KeyId) -> Reason | None:
        """Return why this key, which was valid once, gives no right any more; None if it still does."""
        known = self.connections.get(key.connection)
        if known is None:
            return Reason.UNKNOWN_CONNECTION
        if known.key_id(key.rule, key.slot) != key:
            return Reason.KEY_REVOKED
        return Reason.CONNECTION_DISABLED if known.disabled else None

    def why_not(self, key: KeyId, right: Right) -> Reason | None:
        """Return why this key, which gave a right once, does not give it any more; None if it still does."""
        reason = self.why_revoked(key)
        return reason if reason is not None or self.has_right(key, right) else Reason.RIGHT_MISSING
