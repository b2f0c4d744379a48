"""Which token gives which right, and how many control channels a key has authorized. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from ...errors import AuthorizationError, RendezvousError
from ...protocol.reasons import Reason
from ...security import Right, verify_token
from ..limits import CONTROL_CHANNELS_PER_KEY
from ..model import HybridConnection, KeyId
from .places import Places

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
        control_channels: places for control channels that a key has authorized.
        channels_per_key: how many of them one key may authorize at a time.
    """

    def __init__(
        self,
        connections: Mapping[str, HybridConnection],
        control_channels: Places,
        *,
        channels_per_key: int = CONTROL_CHANNELS_PER_KEY,
    ) -> None:
        self.connections = connections
        self.control_channels = control_channels
        self._channels_per_key = channels_per_key
        #: How many control channels each key has authorized.
        self._holders: Counter[KeyId] = Counter()

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

    def hold(self, key: KeyId, *, first: bool) -> None:
        """Count a control channel that `key` is about to authorize, until `let_go`.

        Args:
            key: the key.
            first: it is the first that authorizes anything there. It takes the place that the channel has, until
                `leave`, whatever other keys follow.

        Raises:
            RendezvousError: with `Reason.LIMIT`, it has as many as it may. Nothing has changed.
        """
        if self._holders[key] >= self._channels_per_key:
            raise RendezvousError("too many control channels of one key", reason=Reason.LIMIT)
        if first:
            self.control_channels.take(key)
        self._holders[key] += 1

    def leave(self, key: KeyId) -> None:
        """A control channel that has a place, for which this key had been the first, is over."""
        self.control_channels.give_back(key)

    def let_go(self, keys: Iterable[KeyId]) -> None:
        """The opposite of `hold`."""
        self._holders.subtract(list(keys))  # of a mapping, it would subtract the values
        self._holders += Counter()  # forgets those without any

    @property
    def held(self) -> int:
        """Control channels, each counted once for every key that has authorized it."""
        return self._holders.total()
