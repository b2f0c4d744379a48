"""Which token gives which right. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ...errors import AuthorizationError
from ...protocol.reasons import Reason
from ...security import Right, verify_token
from ..model import HybridConnection, KeyId

__all__ = ["Authorization", "Grant", "may_have_changed"]

#: Refusals that a change of the store may put right.
_MAY_HAVE_CHANGED = frozenset(
    {Reason.UNKNOWN_CONNECTION, Reason.UNKNOWN_RULE, Reason.WRONG_KEY, Reason.KEY_REVOKED, Reason.RIGHT_MISSING}
)


@attrs.frozen
class Grant:
    """A verified token: which key gave the right, and until when (seconds since 1970)."""

    connection: HybridConnection
    key: KeyId
    expires_at: float


def may_have_changed(error: AuthorizationError) -> bool:
    """Whether a change of the store, which the relay has not noticed yet, may put this refusal right."""
    return error.reason in _MAY_HAVE_CHANGED


class Authorization:
    """What is authorized by the hybrid connections and keys that are known now.

    Args:
        connections: by name.
    """

    def __init__(self, connections: Mapping[str, HybridConnection]) -> None:
        self.connections = connections

    def verify(self, connection: str, token: str, right: Right, now: float) -> Grant:
        """Verify a token; `now` in seconds since 1970.

        Raises:
            AuthorizationError: `reason` says why it gives no right.
        """
        known = self.connections.get(connection)
        if known is None:
            raise AuthorizationError("no such hybrid connection", reason=Reason.UNKNOWN_CONNECTION)
        verified = verify_token(
            token, hosts=known.hosts, entity=connection, right=right, entity_rules=known.rules, now=now
        )
        key = known.key_id(verified.rule_name, verified.slot)
        assert key is not None, "a key that verified a token is in its rule"
        return Grant(known, key, verified.expires_at)

    def why_revoked(self, key: KeyId) -> Reason | None:
        """Why this key, which was valid once, is not valid any longer; None where it is."""
        known = self.connections.get(key.connection)
        if known is None:
            return Reason.UNKNOWN_CONNECTION
        return None if known.key_id(key.rule, key.slot) == key else Reason.KEY_REVOKED
