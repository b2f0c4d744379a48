"""Admission proofs, by which a peer proves before its TLS handshake that it has an access key of the relay.

A proof authorizes nothing. It only gives the peer's handshake priority over those of strangers, and an attacker who
replays an observed proof gains no more than that. It has 32 bytes::

    8   key id: HMAC-SHA256(key, "hybridrelay key id"), truncated
    4   seconds since 1970, unsigned, big-endian
    20  HMAC-SHA256(key, "hybridrelay admission" + the 4 bytes above + the key id), truncated

The HMAC's key is the UTF-8 text of the shared access key, as for tokens. The signature can never be that of a token,
because the text that is signed for a token begins with a URL scheme.

Pure: the time is an argument.
"""

from __future__ import annotations

import hmac
import struct

import attrs

from .._value import Value
from ..protocol.preamble import PROOF_SIZE
from .sas import CLOCK_SKEW_SECONDS
from .secret import Secret

__all__ = ["NO_PROOF", "AdmissionProof", "admission_key_id", "make_admission_proof"]

#: Sent in place of a proof by peers without an access key of the relay.
NO_PROOF = bytes(PROOF_SIZE)

_PROOF = struct.Struct(">8sI20s")
_KEY_ID_LABEL = b"hybridrelay key id"
_PROOF_LABEL = b"hybridrelay admission"
_MAX_TIME = 2**32 - 1


@attrs.frozen
class AdmissionProof(Value):
    """A proof as it was received, before it was verified."""

    key_id: bytes
    #: Seconds since 1970.
    made_at: int
    _signature: bytes = attrs.field(repr=False)

    @classmethod
    def parse_untrusted(cls, data: bytes) -> AdmissionProof:
        """Parse exactly `PROOF_SIZE` bytes, of any content."""
        return cls(*_PROOF.unpack(data))

    def is_timely(self, now: float) -> bool:
        """Return whether the proof was made at most `CLOCK_SKEW_SECONDS` before or after `now` (seconds since
        1970)."""
        return abs(now - self.made_at) <= CLOCK_SKEW_SECONDS

    def is_made_with(self, key: Secret) -> bool:
        """Return whether the proof was made with this key. Takes the same time for every wrong proof."""
        return hmac.compare_digest(_sign(key, self.made_at, self.key_id), self._signature)


def admission_key_id(key: Secret) -> bytes:
    """Return the 8 bytes by which a relay finds the key of a proof."""
    return _hmac(key, _KEY_ID_LABEL)[:8]


def make_admission_proof(key: Secret, now: float) -> bytes:
    """Make a proof of possessing `key`.

    Args:
        key: the shared access key.
        now: seconds since 1970.

    Returns:
        32 bytes; `NO_PROOF` if `now` does not fit into 32 bits.
    """
    if not 0 <= now <= _MAX_TIME:
        return NO_PROOF
    key_id = admission_key_id(key)
    return _PROOF.pack(key_id, int(now), _sign(key, int(now), key_id))


def _sign(key: Secret, made_at: int, key_id: bytes) -> bytes:
    return _hmac(key, _PROOF_LABEL + made_at.to_bytes(4, "big") + key_id)[:20]


def _hmac(key: Secret, message: bytes) -> bytes:
    return hmac.digest(key.reveal().encode("utf-8"), message, "sha256")
