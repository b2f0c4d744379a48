"""What is derived from the secret of a claim, and what can be opened with it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import attrs
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import ClaimError
from hybridrelay.security import (
    MAX_SEALED,
    ClaimBundle,
    ClaimCode,
    ClaimKeys,
    ConnectionString,
    Endpoint,
    HostPort,
    Identity,
    IdentityName,
    PendingClaim,
    Role,
    Secret,
    certify_claim,
    create_authority,
    encode_der,
    open_claim_untrusted,
    parse_claim_code_untrusted,
    seal_claim,
)

from .test_claim_code import CODE, PIN

KEYS = ClaimKeys.of(parse_claim_code_untrusted(CODE))
STRING = ConnectionString(
    endpoints=(Endpoint("relay.example.com"),), key_name="application", key=Secret("k" * 44), entity_path="orders"
)


def hkdf(secret: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 with SHA-256, for outputs of one block."""
    extracted = hmac.digest(b"hybridrelay claim v1", secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")[:size]


def test_the_derivation_is_hkdf() -> None:
    secret = bytes(range(100, 120))
    assert KEYS.id == hkdf(secret, b"id", 16).hex() == "b136e647c48e57c24d04e57f44e7383b"
    proof = hkdf(secret, b"proof", 32)
    assert KEYS.proof.reveal() == proof.hex()
    assert KEYS.proof_digest == hashlib.sha256(proof).hexdigest()
    assert KEYS.proof_digest == "415c33e4f1ee62ea3f1e74189f706c24e90ebc515777b59fc05cc1d5baa5f180"
    assert KEYS._seal == hkdf(secret, b"seal", 32)


def test_nothing_of_it_is_shown() -> None:
    shown = repr(KEYS)
    assert KEYS.proof.reveal() not in shown
    assert repr(KEYS._seal) not in shown


def test_what_is_sealed_can_be_opened() -> None:
    sealed = seal_claim(KEYS, STRING)
    assert open_claim_untrusted(KEYS, sealed) == STRING
    assert STRING.key.reveal().encode() not in sealed
    # Anyone who follows the description can open it.
    key = hkdf(bytes(range(100, 120)), b"seal", 32)
    content = ChaCha20Poly1305(key).decrypt(bytes(12), sealed, KEYS.id.encode())
    assert json.loads(content) == {"version": 1, "connectionString": STRING.format()}


def test_the_size_does_not_tell_the_content() -> None:
    other = attrs.evolve(STRING, entity_path="o")
    assert len(seal_claim(KEYS, STRING)) == len(seal_claim(KEYS, other)) == 1024 + 16


def test_a_long_string_is_refused() -> None:
    with pytest.raises(ClaimError, match="too long for a claim"):
        seal_claim(KEYS, attrs.evolve(STRING, identity=Identity(bytes(MAX_SEALED), Secret("k")), authority=b"a"))


@pytest.mark.parametrize("size", [0, 16, MAX_SEALED + 1])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ClaimError, match="not the content of a claim"):
        open_claim_untrusted(KEYS, bytes(size))


def test_the_contents_of_two_claims_cannot_be_exchanged() -> None:
    other = ClaimKeys.of(ClaimCode.generate(Endpoint("relay"), PIN))
    with pytest.raises(ClaimError, match="not sealed for this claim"):
        open_claim_untrusted(other, seal_claim(KEYS, STRING))
    moved = attrs.evolve(KEYS, id=other.id)
    with pytest.raises(ClaimError, match="not sealed for this claim"):
        open_claim_untrusted(moved, seal_claim(KEYS, STRING))


@given(st.integers(0, 1039), st.integers(1, 255))
def test_no_byte_can_be_changed(position: int, change: int) -> None:
    sealed = bytearray(seal_claim(KEYS, STRING))
    sealed[position] ^= change
    with pytest.raises(ClaimError):
        open_claim_untrusted(KEYS, bytes(sealed))


@given(st.binary(max_size=2000))
def test_any_bytes_raise_this_error(data: bytes) -> None:
    with pytest.raises(ClaimError):
        open_claim_untrusted(KEYS, data)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff", "damaged"),
        (b"[" * 2000, "damaged"),
        (b"[]", "another version"),
        (b'{"version": 3}', "another version"),
        (b'{"version": 1}', "not a connection string"),
        (b'{"version": 1, "connectionString": 5}', "not a connection string"),
        (b'{"version": 1, "connectionString": "SharedAccessKey=geheim"}', "cannot be used"),
    ],
)
def test_a_content_of_another_kind_is_refused(content: bytes, says: str) -> None:
    sealed = ChaCha20Poly1305(KEYS._seal).encrypt(bytes(12), content, KEYS.id.encode())
    with pytest.raises(ClaimError, match=says) as caught:
        open_claim_untrusted(KEYS, sealed)
    assert "geheim" not in str(caught.value)


AUTHORITY = create_authority("orders", now=1_800_000_000.0)


def bundle() -> ClaimBundle:
    certificate = certify_claim(
        AUTHORITY, "billing", KEYS.private_key(), now=1_800_000_000.0, expires_at=1_800_086_400.0
    )
    return ClaimBundle(STRING, AUTHORITY.certificate, certificate)


def test_a_content_without_a_private_key_can_be_opened() -> None:
    made = bundle()
    sealed = seal_claim(KEYS, made)
    assert open_claim_untrusted(KEYS, sealed) == made
    content = ChaCha20Poly1305(KEYS._seal).decrypt(bytes(12), sealed, KEYS.id.encode())
    value = json.loads(content)
    assert (value["version"], sorted(value)) == (
        2, ["authority", "claimCertificate", "connectionString", "version"],
    )  # fmt: skip
    assert "PrivateKey" not in value["connectionString"]


def test_the_key_of_a_claim_certificate_is_derived_from_the_code() -> None:
    seed = hkdf(bytes(range(100, 120)), b"identity", 32)
    assert base64.b64decode(KEYS.private_key().reveal()).endswith(seed)
    assert KEYS.private_key().reveal() not in repr(KEYS)


@pytest.mark.parametrize(
    "changes",
    [
        {"authority": "AA"}, {"authority": None}, {"claimCertificate": 5}, {"connectionString": "x"},
        {"connectionString": attrs.evolve(STRING, target=HostPort("a", 1)).format()}, {"version": 3},
    ],
)  # fmt: skip
def test_a_damaged_content_without_a_private_key_is_refused(changes: dict[str, object]) -> None:
    value = {
        "version": 2,
        "connectionString": STRING.format(),
        "authority": encode_der(AUTHORITY.certificate),
        "claimCertificate": encode_der(bundle().certificate),
        **changes,
    }
    content = json.dumps(value).encode()
    sealed = ChaCha20Poly1305(KEYS._seal).encrypt(bytes(12), content, KEYS.id.encode())
    with pytest.raises(ClaimError):
        open_claim_untrusted(KEYS, sealed)


# --- a claim that was taken


def test_a_pending_claim_is_read_as_it_was_written() -> None:
    claim = PendingClaim.begin(KEYS, bundle())
    assert PendingClaim.parse_untrusted(claim.format()) == claim
    assert claim.private_key != claim.claim_key == KEYS.private_key()
    assert claim.expected == IdentityName("orders", Role.APPLICATION, "billing")
    assert claim.claiming.require_identity()[0].role is Role.CLAIM
    for secret in (claim.private_key, claim.claim_key, claim.string.key):
        assert secret.reveal() not in repr(claim)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", '{"format": "hybridrelay-pending-claim", "version": 2}', "[" * 9999]
)
def test_another_file_is_not_a_pending_claim(text: str) -> None:
    with pytest.raises(ClaimError):
        PendingClaim.parse_untrusted(text)


@pytest.mark.parametrize("part", ["connectionString", "authority", "claimCertificate", "claimKey", "privateKey"])
@pytest.mark.parametrize("value", [None, 5, "", "?"])
def test_a_damaged_pending_claim(part: str, value: object) -> None:
    content = json.loads(PendingClaim.begin(KEYS, bundle()).format())
    with pytest.raises(ClaimError, match="damaged"):
        PendingClaim.parse_untrusted(json.dumps({**content, part: value}))
