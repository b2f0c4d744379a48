"""Admission proofs, byte for byte, and what is not accepted as one."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import AuthorizationError
from hybridrelay.security import (
    NO_PROOF,
    AdmissionProof,
    Secret,
    admission_key_id,
    generate_key,
    make_admission_proof,
    parse_token_untrusted,
)

KEY, OTHER = Secret("a shared access key"), Secret("another key")
NOW = 1_700_000_000.9


def by_hand(key: Secret, seconds: int) -> bytes:
    """As SPEC.md says it."""

    def sign(message: bytes) -> bytes:
        return hmac.new(key.reveal().encode(), message, hashlib.sha256).digest()

    key_id = sign(b"hybridrelay key id")[:8]
    at = seconds.to_bytes(4, "big")
    return key_id + at + sign(b"hybridrelay admission" + at + key_id)[:20]


def is_proof(data: bytes, key: Secret, now: float) -> bool:
    proof = AdmissionProof.parse_untrusted(data)
    return proof.key_id == admission_key_id(key) and proof.is_timely(now) and proof.is_made_with(key)


def test_a_proof_has_these_bytes() -> None:
    proof = make_admission_proof(KEY, NOW)
    assert len(proof) == len(NO_PROOF) == 32
    assert proof == by_hand(KEY, 1_700_000_000)
    assert proof.hex() == VECTOR


VECTOR = "563cf17a98467cb86553f1001b9ea436eb973585ac18259b2cda97324548ee4f"


@given(st.integers(0, 2**32 - 1))
def test_a_proof_holds_for_its_key_only(seconds: int) -> None:
    proof = make_admission_proof(KEY, float(seconds))
    assert is_proof(proof, KEY, seconds)
    assert not AdmissionProof.parse_untrusted(proof).is_made_with(OTHER)


@pytest.mark.parametrize(
    ("off", "timely"), [(0, True), (300, True), (-300, True), (301, False), (-301, False), (1e12, False)]
)
def test_a_proof_is_timely_for_five_minutes(off: float, timely: bool) -> None:
    proof = AdmissionProof.parse_untrusted(make_admission_proof(KEY, 1_700_000_000))
    assert proof.is_timely(1_700_000_000 + off) is timely


@pytest.mark.parametrize("bit", range(0, 256, 5))
def test_a_proof_with_one_wrong_bit_is_none(bit: int) -> None:
    proof = bytearray(make_admission_proof(KEY, NOW))
    proof[bit // 8] ^= 1 << bit % 8
    assert not is_proof(bytes(proof), KEY, NOW)


@pytest.mark.parametrize("now", [-1.0, 2.0**32, float("nan"), float("inf"), -float("inf")])
def test_with_an_impossible_clock_there_is_no_proof(now: float) -> None:
    assert make_admission_proof(KEY, now) == NO_PROOF


@given(st.binary(min_size=32, max_size=32))
def test_whatever_was_received_is_judged_without_an_error(data: bytes) -> None:
    assert not is_proof(data, KEY, NOW)


@pytest.mark.parametrize("message", [b"hybridrelay key id", b"hybridrelay admission" + b"%\n123456789" + b"0"])
def test_what_is_signed_is_never_the_signed_text_of_a_token(message: bytes) -> None:
    """Whatever the time and the key id are: a token's text is an audience, a line feed and a number."""
    audience, _, expiry = message.decode().partition("\n")
    token = f"SharedAccessSignature sr={audience}&sig={'A' * 43}%3d&se={expiry or '1'}&skn=rule"
    with pytest.raises(AuthorizationError, match="sr is not a URL"):
        parse_token_untrusted(token)


def test_neither_key_nor_proof_print() -> None:
    key = generate_key()
    proof = AdmissionProof.parse_untrusted(make_admission_proof(key, NOW))
    assert "signature" not in repr(proof)
    assert key.reveal() not in repr(proof)
