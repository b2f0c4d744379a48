"""Authorities and what they issue."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import ConfigurationError
from hybridrelay.security import (
    Authority,
    AuthorityFile,
    Identity,
    IdentityName,
    Role,
    Secret,
    check_label,
    create_authority,
)
from hybridrelay.security.identity import format_serial

from ..certificates import damaged

NOW = float(int(time.time()))
DAY = 86400
YEAR = 365.25 * DAY
AUTHORITY = create_authority("orders/sql", now=NOW)


E = TypeVar("E", bound=x509.ExtensionType)


def extension(der: bytes, kind: type[E]) -> x509.Extension[E]:
    return x509.load_der_x509_certificate(der).extensions.get_extension_for_class(kind)


@pytest.mark.parametrize(
    ("role", "usage"),
    [(Role.CONNECTOR, ExtendedKeyUsageOID.SERVER_AUTH), (Role.APPLICATION, ExtendedKeyUsageOID.CLIENT_AUTH)],
)
def test_what_an_identity_says(role: Role, usage: x509.ObjectIdentifier) -> None:
    identity = AUTHORITY.issue(role, "web 1", now=NOW)
    assert (identity.role, identity.label) == (role, "web 1")
    assert identity.details.name == IdentityName("orders/sql", role, "web 1")
    assert identity.details.not_before == NOW - 2 * DAY
    assert identity.details.not_after == NOW + 10 * YEAR
    assert identity.serial == identity.details.serial
    assert list(extension(identity.certificate, x509.ExtendedKeyUsage).value) == [usage]
    constraints = extension(identity.certificate, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    key_usage = extension(identity.certificate, x509.KeyUsage).value
    assert (key_usage.digital_signature, key_usage.key_cert_sign) == (True, False)


def test_what_an_authority_says() -> None:
    constraints = extension(AUTHORITY.certificate, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    key_usage = extension(AUTHORITY.certificate, x509.KeyUsage).value
    assert (key_usage.digital_signature, key_usage.key_cert_sign) == (False, True)


def test_the_two_are_linked_by_key_identifiers() -> None:
    identity = AUTHORITY.issue(Role.CONNECTOR, "x", now=NOW)
    issuer = extension(identity.certificate, x509.AuthorityKeyIdentifier).value
    subject = extension(AUTHORITY.certificate, x509.SubjectKeyIdentifier).value
    assert isinstance(issuer, x509.AuthorityKeyIdentifier)
    assert isinstance(subject, x509.SubjectKeyIdentifier)
    assert issuer.key_identifier == subject.digest


def test_no_identity_outlives_its_authority() -> None:
    late = AUTHORITY.issue(Role.APPLICATION, "x", now=NOW + 9 * YEAR)
    assert late.details.not_after == NOW + 10 * YEAR
    with pytest.raises(ConfigurationError, match="expired") as caught:
        AUTHORITY.issue(Role.APPLICATION, "x", now=NOW + 10 * YEAR)
    assert caught.value.remedy


@pytest.mark.parametrize("years", [0, -1, 101, float("nan")])
def test_an_impossible_validity_is_refused(years: float) -> None:
    with pytest.raises(ConfigurationError, match="validity"):
        create_authority("orders", now=NOW, valid_years=years)


@pytest.mark.parametrize("label", ["", " x", "x ", "a\nb", "x" * 65])
def test_an_impossible_label_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="label"):
        check_label(label)
    with pytest.raises(ConfigurationError, match="label"):
        AUTHORITY.issue(Role.CONNECTOR, label, now=NOW)


def test_an_impossible_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="name"):
        create_authority("a//b", now=NOW)


def test_long_names_fit() -> None:
    authority = create_authority("n" * 260, now=NOW)
    label = "\U0001f600" * 64
    assert authority.issue(Role.CONNECTOR, label, now=NOW).details.name == IdentityName(
        "n" * 260, Role.CONNECTOR, label
    )


labels = st.text(min_size=1, max_size=64).filter(lambda text: text.isprintable() and text == text.strip())
names = st.from_regex(r"[A-Za-z0-9_-]{1,20}(/[A-Za-z0-9_-]{1,20}){0,3}", fullmatch=True)


@given(name=names, role=st.sampled_from(list(Role)), label=labels)
def test_uris_read_back(name: str, role: Role, label: str) -> None:
    identity = IdentityName(name, role, label)
    assert identity.uri.isascii()
    assert IdentityName.parse_untrusted(identity.uri) == identity


@given(
    st.text(max_size=60)
    | st.text(max_size=60).map(lambda text: f"hybridrelay://identity/{text}")
    | st.tuples(names, st.text(max_size=20)).map(lambda pair: f"hybridrelay://identity/{pair[0]}/connector/{pair[1]}")
)
def test_an_arbitrary_uri_is_refused_or_written_as_it_is_read(uri: str) -> None:
    try:
        identity = IdentityName.parse_untrusted(uri)
    except ValueError:
        return
    assert identity.uri == uri


@given(st.integers(min_value=1, max_value=1 << 159))
def test_serials_are_whole_bytes(serial: int) -> None:
    text = format_serial(serial)
    assert len(text) % 2 == 0
    assert int(text, 16) == serial
    assert text == text.upper()


def test_a_certificate_that_is_not_an_identity() -> None:
    for der in (AUTHORITY.certificate, b"junk"):
        with pytest.raises(ConfigurationError, match="identity"):
            _ = Identity(der, AUTHORITY.private_key).details


def test_authority_file_reads_back() -> None:
    file = AuthorityFile(AUTHORITY, {"endpoint": "relay.test", "ports": {"http": None}, "rules": [1]})
    again = AuthorityFile.parse_untrusted(file.format())
    assert again == file
    again.authority.issue(Role.APPLICATION, "later", now=NOW)


def authority_text(**changes: object) -> str:
    return json.dumps(json.loads(AuthorityFile(AUTHORITY).format()) | changes)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "not an authority file"),
        (authority_text(format="x"), "not an authority file"),
        (authority_text(version=2), "version"),
        (authority_text(extra=[]), "extra"),
        (authority_text(certificate=None), "certificate"),
        (authority_text(certificate="x"), "damaged: certificate: not Base64"),
        (authority_text(certificate="MAE="), "damaged: certificate: not one complete structure"),
        (authority_text(connection="/"), "name"),
        (authority_text(private_key=5), "private_key"),
        (" " * (1 << 20), "too long"),
    ],
)
def test_impossible_authority_files(text: str, part: str) -> None:
    with pytest.raises(ConfigurationError, match=part) as caught:
        AuthorityFile.parse_untrusted(text)
    assert AUTHORITY.private_key.reveal() not in str(caught.value)


def test_damaged_authorities_issue_nothing() -> None:
    other = create_authority("orders/sql", now=NOW)
    junk = Secret(base64.b64encode(b"\x30\x01x").decode())
    for authority in (
        Authority("orders/sql", AUTHORITY.certificate, other.private_key),
        Authority("orders/sql", AUTHORITY.certificate, junk),
        Authority("orders/sql", b"junk", AUTHORITY.private_key),
        Authority("orders/sql", AUTHORITY.certificate, Secret("junk")),
    ):
        with pytest.raises(ConfigurationError, match="authority of orders/sql"):
            authority.issue(Role.APPLICATION, "x", now=NOW)


def test_nothing_but_a_configuration_error_comes_of_damaged_certificates() -> None:
    identity = AUTHORITY.issue(Role.APPLICATION, "x", now=NOW)
    for der in damaged(AUTHORITY.certificate):
        with contextlib.suppress(ConfigurationError):
            Authority("orders/sql", der, AUTHORITY.private_key).issue(Role.APPLICATION, "x", now=NOW)
    for der in damaged(identity.certificate):
        with contextlib.suppress(ConfigurationError):
            _ = Identity(der, identity.private_key).details
