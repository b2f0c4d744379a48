"""Verifying admission proofs, which show before the TLS handshake that a peer has an access key. Pure: time is an
argument.

A preamble may contain an admission proof (`security.admission`). A valid proof gives the peer's handshake priority
over those of strangers, and no rights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

from ...security import NO_PROOF, AdmissionProof, KeySlot, Secret, admission_key_id
from ..model import HybridConnection

__all__ = ["KeyIndex"]


class KeyIndex:
    """The access keys that are valid now, by their key ids. Immutable."""

    def __init__(self) -> None:
        """Make an index without keys."""
        #: Key ids have 64 bits, so two keys hardly ever have the same id. If they do, a proof with either key is
        #: accepted.
        self._by_id: dict[bytes, tuple[Secret, ...]] = {}
        #: The ids by the text of the key. Comparing `Secret`s would take much longer, and a store may have thousands
        #: of keys.
        self._ids: dict[str, bytes] = {}

    def __len__(self) -> int:
        """Return the number of different keys."""
        return len(self._ids)

    def updated(self, connections: Mapping[str, HybridConnection]) -> Self:
        """Return an index of the keys of `connections`. Takes milliseconds for thousands of keys, so call it in a
        thread.

        The ids of keys that are in this index already are not computed again.
        """
        index = type(self)()
        for key in _keys(connections.values()):
            text = key.reveal()
            if text not in index._ids:
                key_id = index._ids[text] = self._ids.get(text) or admission_key_id(key)
                index._by_id[key_id] = (*index._by_id.get(key_id, ()), key)
        return index

    def prove(self, credential: bytes, now: float) -> bytes | None:
        """Return the id of the key with which a proof was made; None if there is no proof, or it is wrong or too old.

        Costs one dictionary lookup, and one HMAC if the key id is known and the time in the proof is recent.

        Args:
            credential: `PROOF_SIZE` bytes from the preamble of a control channel.
            now: seconds since 1970.
        """
        if credential == NO_PROOF:
            return None
        proof = AdmissionProof.parse_untrusted(credential)
        candidates = self._by_id.get(proof.key_id, ())
        if not candidates or not proof.is_timely(now):
            return None
        return proof.key_id if any(map(proof.is_made_with, candidates)) else None


def _keys(connections: Iterable[HybridConnection]) -> Iterable[Secret]:
    for connection in connections:
        for rule in connection.rules:
            for slot in KeySlot:
                if (key := rule.key(slot)) is not None:
                    yield key
