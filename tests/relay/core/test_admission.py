"""Which proofs a relay accepts, and that the index follows the registry."""

from __future__ import annotations

import pytest

from hybridrelay.relay.core.admission import KeyIndex, keys_for_index
from hybridrelay.relay.model import HybridConnection
from hybridrelay.security import (
    NO_PROOF,
    AdmissionProof,
    KeySlot,
    Right,
    Rule,
    Secret,
    admission_key_id,
    make_admission_proof,
)

NOW = 1_700_000_000.0
A, B, C = (Secret(f"key-{letter}") for letter in "abc")


def connection(name: str, *rules: Rule) -> HybridConnection:
    return HybridConnection(name, ("relay.test",), rules, 0.0, {})


def index_of(*connections: HybridConnection, before: KeyIndex | None = None) -> KeyIndex:
    """An index of the keys of `connections`, in place of those that `before` has."""
    index = KeyIndex() if before is None else before
    for name in ("x", "y"):
        index.replace(name, ())
    for one in connections:
        index.replace(one.name, keys_for_index(one))
    return index


def rule(primary: Secret | None, secondary: Secret | None = None, name: str = "r") -> Rule:
    return Rule(name, [Right.SEND], primary, secondary)


def wrong_signature(proof: bytes) -> bytes:
    return proof[:-1] + bytes([proof[-1] ^ 1])


@pytest.mark.parametrize(
    ("credential", "proves"),
    [
        (make_admission_proof(A, NOW), A),
        (make_admission_proof(B, NOW), B),
        (make_admission_proof(A, NOW - 300), A),
        (make_admission_proof(A, NOW + 300), A),
        (make_admission_proof(A, NOW - 302), None),
        (make_admission_proof(A, NOW + 302), None),
        (make_admission_proof(C, NOW), None),
        (wrong_signature(make_admission_proof(A, NOW)), None),
        (admission_key_id(A) + bytes(24), None),
        (make_admission_proof(A, NOW)[:8] + make_admission_proof(B, NOW)[8:], None),
        (NO_PROOF, None),
        (b"\xff" * 32, None),
    ],
)
def test_a_proof_identifies_the_key_with_which_it_was_made(credential: bytes, proves: Secret | None) -> None:
    index = index_of(connection("x", rule(A)), connection("y", rule(None, B)))
    assert index.prove(credential, NOW) == (None if proves is None else admission_key_id(proves))


def test_a_key_of_several_rules_counts_until_the_last_one_has_lost_it() -> None:
    index = index_of(connection("x", rule(A, B), rule(A, name="s")), connection("y", rule(A)))
    assert len(index) == 2
    index = index_of(connection("y", rule(A)), before=index)
    assert index.prove(make_admission_proof(A, NOW), NOW)
    assert index.prove(make_admission_proof(B, NOW), NOW) is None
    index = index_of(connection("y", rule(None)), before=index)
    assert len(index) == 0
    assert index.prove(make_admission_proof(A, NOW), NOW) is None


def test_a_wrong_proof_of_a_key_that_many_have_costs_one_hmac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody who may create hybrid connections can give the same key to any number of them."""
    index = KeyIndex()
    for number in range(50):
        index.replace(str(number), keys_for_index(connection(str(number), rule(A))))
    assert len(index) == 1
    signed: list[Secret] = []
    monkeypatch.setattr(AdmissionProof, "is_made_with", lambda proof, key: signed.append(key))
    assert index.prove(wrong_signature(make_admission_proof(A, NOW)), NOW) is None
    assert signed == [A]
    for number in range(50):
        assert len(index) == 1
        index.replace(str(number), ())
    assert len(index) == 0


def test_keys_that_share_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """By chance, one time in 2^64: either of them proves itself, and no other."""
    shared = b"\1" * 8
    monkeypatch.setattr("hybridrelay.security.admission.admission_key_id", lambda key: shared)
    monkeypatch.setattr("hybridrelay.relay.core.admission.admission_key_id", lambda key: shared)
    index = index_of(connection("x", rule(A, B)))
    assert [index.prove(make_admission_proof(key, NOW), NOW) for key in (A, B, C)] == [shared, shared, None]
    index = index_of(connection("x", rule(A)), before=index)
    assert [index.prove(make_admission_proof(key, NOW), NOW) for key in (A, B, C)] == [shared, None, None]


def test_what_a_wrong_proof_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One HMAC, and only if the key is known and the time is recent."""
    signed: list[Secret] = []
    is_made_with = AdmissionProof.is_made_with

    def counting(proof: AdmissionProof, key: Secret) -> bool:
        signed.append(key)
        return is_made_with(proof, key)

    monkeypatch.setattr(AdmissionProof, "is_made_with", counting)
    index = index_of(connection("x", rule(A, B)), connection("y", rule(A, C)))
    for costs_nothing in (NO_PROOF, make_admission_proof(Secret("d"), NOW), make_admission_proof(A, NOW - 1000)):
        index.prove(costs_nothing, NOW)
    assert signed == []
    index.prove(wrong_signature(make_admission_proof(A, NOW)), NOW)
    assert signed == [A]


def test_slots_of_a_rule() -> None:
    both = rule(A, B)
    for slot in KeySlot:
        index = index_of(connection("x", both.with_key(slot, None)))
        left = both.key(slot.other)
        assert left is not None
        assert index.prove(make_admission_proof(left, NOW), NOW)
        assert len(index) == 1
