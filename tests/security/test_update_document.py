"""Updates: what can be opened with which connection string, and that nothing else can."""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import load_der_private_key
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.administration.provisioning import provision
from hybridrelay.errors import ConfigurationError, ConnectionStringError, UpdateError
from hybridrelay.security import (
    MAX_EXCLUDED,
    MAX_UPDATE,
    ConnectionString,
    Endpoint,
    HostPort,
    Role,
    Secret,
    Update,
    open_update_untrusted,
    parse_connection_string_untrusted,
    seal_update,
    update_key,
)

NOW = 1_800_000_000.0
NONCE = bytes(range(12))
PIN = "sha256:" + "A" * 43 + "="


def made(name: str = "orders") -> Any:
    return provision(name, target=HostPort("db", 5432), endpoints=[Endpoint("a.example")], pins=(PIN,), now=NOW)


MADE = made()
AUTHORITY = MADE.authority_file.authority
CONNECTOR, APPLICATION = MADE.connector, MADE.application
UPDATE = Update(
    connection="orders",
    role=Role.CONNECTOR,
    sequence=7,
    not_after=NOW + 100,
    endpoints=(Endpoint("b.example", {"http": 8080, "probe": None}), Endpoint("fd00::1")),
    pins=(PIN,),
    target=HostPort("secret.internal", 1433),
)
SEALED = seal_update(AUTHORITY, UPDATE, NONCE)


def resealed(body: bytes, string: ConnectionString = CONNECTOR, *, signs: bool = True) -> bytes:
    """Seal what somebody with the authority's private key and the update key could."""
    private = load_der_private_key(base64.b64decode(AUTHORITY.private_key.reveal()), password=None)
    assert string.update_key is not None
    signature = private.sign(b"hybridrelay update v1\n" + body) if signs else bytes(64)  # type: ignore[union-attr, call-arg]
    binding = f"hybridrelay update v1\n{string.entity_path}\n{string.role.value}".encode()
    key = base64.b64decode(string.update_key.reveal())
    return NONCE + ChaCha20Poly1305(key).encrypt(NONCE, signature + body, binding)


def test_what_is_sealed_can_be_opened() -> None:
    assert open_update_untrusted(CONNECTOR, SEALED) == UPDATE
    after = UPDATE.applied_to(CONNECTOR)
    assert (after.endpoints, after.relay_pins, after.target) == (UPDATE.endpoints, (PIN,), UPDATE.target)
    assert after.update_sequence == 7
    assert parse_connection_string_untrusted(after.format()) == after
    unchanged = attrs.evolve(UPDATE, endpoints=None, pins=None, target=None).applied_to(CONNECTOR)
    assert unchanged == attrs.evolve(CONNECTOR, update_sequence=7)


def test_the_key_is_derived_as_described() -> None:
    """HKDF (RFC 5869) with SHA-256, from the seed of the authority's private key."""
    private = load_der_private_key(base64.b64decode(AUTHORITY.private_key.reveal()), password=None)
    seed = private.private_bytes_raw()  # type: ignore[union-attr]
    extracted = hmac.digest(b"hybridrelay update key v1", seed, "sha256")
    for string in (CONNECTOR, APPLICATION):
        key = hmac.digest(extracted, f"orders\n{string.role.value}".encode() + b"\x01", "sha256")
        assert string.update_key == Secret(base64.b64encode(key).decode()) == update_key(AUTHORITY, string.role)


def test_nothing_of_it_is_readable_without_the_key() -> None:
    assert b"secret.internal" not in SEALED
    assert b"b.example" not in SEALED
    key = CONNECTOR.update_key
    assert key is not None
    assert key.reveal() not in repr(CONNECTOR)
    assert (len(SEALED) - 28) % 256 == 0  # the length says little


@pytest.mark.parametrize(
    ("string", "says"),
    [
        (APPLICATION, "not an update for this hybrid connection and side"),
        (made().connector, "not an update for this hybrid connection and side"),
        (attrs.evolve(CONNECTOR, entity_path="other"), "not an update for this hybrid connection and side"),
        (attrs.evolve(CONNECTOR, update_key=None), "has no UpdateKey"),
        (attrs.evolve(CONNECTOR, authority=made().connector.authority), "was not signed by the authority"),
        (attrs.evolve(CONNECTOR, authority=b"0\x00"), "no valid authority"),
    ],
)
def test_others_cannot_use_it(string: ConnectionString, says: str) -> None:
    with pytest.raises(UpdateError, match=says):
        open_update_untrusted(string, SEALED)


def test_who_only_has_the_key_cannot_make_one() -> None:
    """Every connector has the key of its side, and a thief of its connection string, too."""
    with pytest.raises(UpdateError, match="not signed by the authority"):
        open_update_untrusted(CONNECTOR, resealed(b'{"version":1}', signs=False))


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(position: int, difference: int) -> None:
    changed = bytearray(SEALED)
    changed[position] ^= difference
    with pytest.raises(UpdateError):
        open_update_untrusted(CONNECTOR, bytes(changed))


@given(st.binary(max_size=300) | st.integers(0, len(SEALED)).map(lambda size: SEALED[:size]))
def test_other_bytes_are_refused(data: bytes) -> None:
    if data != SEALED:
        with pytest.raises(UpdateError):
            open_update_untrusted(CONNECTOR, data)


def test_a_huge_document_is_refused() -> None:
    with pytest.raises(UpdateError, match="its size is wrong"):
        open_update_untrusted(CONNECTOR, SEALED + bytes(MAX_UPDATE))


BODY: dict[str, Any] = {
    "version": 1, "connection": "orders", "role": "connector", "sequence": 7, "notBefore": 0, "notAfter": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "another version"),
        ({"connection": "other"}, "for another hybrid connection or side"),
        ({"role": "application"}, "for another hybrid connection or side"),
        ({"role": "relay"}, "cannot be used"),
        ({"sequence": 0}, "out of range"),
        ({"sequence": 2**53}, "out of range"),
        ({"sequence": True}, "out of range"),
        ({"sequence": None}, "out of range"),
        ({"notAfter": float("inf")}, "out of range"),
        ({"notBefore": -1}, "out of range"),
        ({"notBefore": "1"}, "out of range"),
        ({"serial": "zz"}, "serial number"),
        ({"serial": 5}, "serial is not a text"),
        ({"excluded": ["AA"] * (MAX_EXCLUDED + 1)}, "leaves out at most"),
        ({"excluded": "AA"}, "not a list of texts"),
        ({"relays": ["a"]}, "ports is missing"),
        ({"relays": [], "ports": ""}, "1 to 8 relays"),
        ({"relays": ["a", "a"], "ports": ""}, "twice"),
        ({"relays": ["a b"], "ports": ""}, "cannot be used"),
        ({"relays": ["a"], "ports": "x"}, "name=number"),
        ({"pins": ["x"]}, "cannot be used"),
        ({"pins": [PIN] * 9}, "at most 8 pins"),
        ({"target": "db"}, "cannot be used"),
    ],
)
def test_signed_content_that_does_not_fit(change: dict[str, Any], says: str) -> None:
    """The authority is trusted, and may still be of another version, or damaged."""
    body = json.dumps({**BODY, **change}).encode()
    with pytest.raises(UpdateError, match=says):
        open_update_untrusted(CONNECTOR, resealed(body))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_signed_content_of_any_kind(value: object) -> None:
    for body in (json.dumps(value), *(json.dumps({**BODY, name: value}) for name in (*BODY, "relays", "pins"))):
        with contextlib.suppress(UpdateError):
            open_update_untrusted(CONNECTOR, resealed(body.encode()))


def test_who_the_recipients_are() -> None:
    identity, _ = CONNECTOR.require_identity()
    assert UPDATE.is_for(CONNECTOR)
    assert attrs.evolve(UPDATE, serial=identity.serial).is_for(CONNECTOR)
    assert not attrs.evolve(UPDATE, serial="AA").is_for(CONNECTOR)
    assert not attrs.evolve(UPDATE, excluded=("AA", identity.serial)).is_for(CONNECTOR)


def test_the_largest_update_fits_and_a_larger_one_is_refused() -> None:
    hosts = [f"{number}.{'a' * 62}.{'b' * 62}.{'c' * 62}.{'d' * 40}" for number in range(8)]
    ports = {f"port{number}": 50000 + number for number in range(5)}
    largest = attrs.evolve(
        UPDATE,
        endpoints=tuple(Endpoint(host, {**ports, "probe": 1000 + at}) for at, host in enumerate(hosts)),
        pins=(PIN,) * 8,
        excluded=("F" * 40,) * 8,
    )
    sealed = seal_update(AUTHORITY, largest, NONCE)
    assert len(sealed) <= MAX_UPDATE
    assert open_update_untrusted(CONNECTOR, sealed) == largest
    many = {f"{'p' * 28}{number}": 50000 for number in range(15)}
    too_long = attrs.evolve(
        largest, endpoints=tuple(Endpoint(host, {**many, "probe": at + 1}) for at, host in enumerate(hosts))
    )
    with pytest.raises(ConfigurationError, match="the update is too long"):
        seal_update(AUTHORITY, too_long, NONCE)


@pytest.mark.parametrize(
    ("field", "value"),
    [("UpdateKey", "AAAA"), ("UpdateKey", "x"), ("UpdateSequence", "-1"), ("UpdateSequence", "9" * 17)],
)
def test_fields_of_connection_strings(field: str, value: str) -> None:
    with pytest.raises(ConnectionStringError, match=field) as caught:
        parse_connection_string_untrusted(f"{attrs.evolve(CONNECTOR, update_key=None).format()};{field}={value}")
    assert value not in str(caught.value) or value == "x"
