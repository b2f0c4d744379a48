"""Verifying admission proofs, which show before the TLS handshake that a peer has an access key. Pure: time is an
argument.

A preamble may contain an admission proof (`security.admission`). A valid proof gives the peer's handshake priority
over those of strangers, and no rights.
"""

from __future__ import annotations

import attrs

from ..._value import Value
from ...security import NO_PROOF, AdmissionProof, KeySlot, Secret, admission_key_id
from ..model import HybridConnection

__all__ = ["KeyIndex", "KeyOfIndex", "keys_for_index"]


@attrs.frozen
class KeyOfIndex(Value):
    """A key, with what the index needs to find it."""

    id: bytes
    secret: Secret


def keys_for_index(connection: HybridConnection) -> tuple[KeyOfIndex, ...]:
    """Return the keys of a hybrid connection for `KeyIndex.replace`. Computes an HMAC for each key, so call it in a
    thread if there are many."""
    secrets = (rule.key(slot) for rule in connection.rules for slot in KeySlot)
    return tuple(KeyOfIndex(admission_key_id(secret), secret) for secret in secrets if secret is not None)


@attrs.define
class _Known:
    secret: Secret
    #: How many rules and slots have it.
    count: int = 0


class KeyIndex:
    """The access keys that are valid now, by their key ids."""

    def __init__(self) -> None:
        """Make an index without keys."""
        #: Key ids have 64 bits, so two keys hardly ever have the same id. If they do, a proof with either key is
        #: accepted. The keys of an id are distinguished by their texts, because comparing `Secret`s takes longer.
        self._by_id: dict[bytes, dict[str, _Known]] = {}
        self._of_connection: dict[str, tuple[KeyOfIndex, ...]] = {}

    def __len__(self) -> int:
        """Return the number of different keys."""
        return sum(map(len, self._by_id.values()))

    def replace(self, connection: str, keys: tuple[KeyOfIndex, ...]) -> None:
        """Replace the keys of a hybrid connection. If it was deleted, it has none."""
        for key in self._of_connection.pop(connection, ()):
            known = self._by_id[key.id]
            known[key.secret.reveal()].count -= 1
            if not known[key.secret.reveal()].count:
                del known[key.secret.reveal()]
            if not known:
                del self._by_id[key.id]
        for key in keys:
            self._by_id.setdefault(key.id, {}).setdefault(key.secret.reveal(), _Known(key.secret)).count += 1
        if keys:
            self._of_connection[connection] = keys

    def prove(self, credential: bytes, now: float) -> bytes | None:
        """Return the id of the key with which a proof was made; None if there is no proof, or it is wrong, or was
        made too long before or after `now`.

        Costs one dictionary lookup, and one HMAC if the key id is known and the time in the proof is recent.

        Args:
            credential: `PROOF_SIZE` bytes from the preamble of a control channel.
            now: seconds since 1970.
        """
        if credential == NO_PROOF:
            return None
        proof = AdmissionProof.parse_untrusted(credential)
        candidates = self._by_id.get(proof.key_id)
        if candidates is None or not proof.is_timely(now):
            return None
        return proof.key_id if any(proof.is_made_with(known.secret) for known in candidates.values()) else None
