"""Interception of the outer TLS: certificates are compared, and failures are explained."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.connectivity import FailureKind
from hybridrelay.connectivity.interception import OuterCertificate, explain_failure
from hybridrelay.errors import TransportError, UpgradeRefused
from hybridrelay.security import load_or_create_relay_certificate, relay_pin

from ..certificates import CertificateAuthority, certificate_of_version_5, damaged

SOMEBODYS = OuterCertificate("sha256:x", "Corp CA", self_signed=False)
SELF_SIGNED = OuterCertificate("sha256:y", "hybridrelay relay", self_signed=True)


def test_the_certificate_of_the_relay_itself_is_not_an_interception(tmp_path: Path) -> None:
    path = load_or_create_relay_certificate(tmp_path, now=time.time(), name="outer")
    pem = path.read_text()
    der = ssl.PEM_cert_to_DER_cert(pem[: pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)])
    certificate = OuterCertificate.from_der_untrusted(der)
    assert certificate == OuterCertificate(relay_pin(path), "hybridrelay relay", self_signed=True)
    assert certificate.intercepted_by([relay_pin(path), "sha256:other"]) is None
    assert certificate.intercepted_by(["sha256:other"]) == "hybridrelay relay"
    assert certificate.intercepted_by([]) is None, "a relay that does not know concludes nothing"


@given(st.binary())
def test_anything_may_be_shown(der: bytes) -> None:
    certificate = OuterCertificate.from_der_untrusted(der)
    assert certificate.intercepted_by(["sha256:other"]) == "unknown"


def test_the_issuers_name_is_shown_in_part_and_without_control_characters(tmp_path: Path) -> None:
    name = "\x1b[31mCorp\n" + "x" * 200
    pem, _ = CertificateAuthority(name=name).issue("relay.example.com")
    shown = OuterCertificate.from_der_untrusted(ssl.PEM_cert_to_DER_cert(pem.decode())).issuer
    assert len(shown) <= 140
    assert shown.isprintable()
    assert "Corp" in shown


def test_a_damaged_certificate_may_be_shown(tmp_path: Path) -> None:
    pem = load_or_create_relay_certificate(tmp_path, now=time.time(), name="outer").read_text()
    der = ssl.PEM_cert_to_DER_cert(pem[: pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)])
    for changed in damaged(der):
        OuterCertificate.from_der_untrusted(changed)
    odd, _ = certificate_of_version_5(tmp_path)
    assert OuterCertificate.from_der_untrusted(odd) == OuterCertificate("", "unknown", self_signed=False)


@pytest.mark.parametrize(
    ("error", "certificate", "kind"),
    [
        (UpgradeRefused("x", status=502), SOMEBODYS, FailureKind.INTERCEPTION_FAILED),
        (UpgradeRefused("x", status=503), SOMEBODYS, FailureKind.INTERCEPTION_FAILED),
        (UpgradeRefused("x", status=526), SOMEBODYS, FailureKind.INTERCEPTION_FAILED),
        (UpgradeRefused("x", status=404), SOMEBODYS, FailureKind.NOT_A_RELAY),
        (UpgradeRefused("x", status=502), SELF_SIGNED, FailureKind.NOT_A_RELAY),
        (UpgradeRefused("x", status=502), None, FailureKind.NOT_A_RELAY),
        (TransportError("x"), SOMEBODYS, FailureKind.NOT_A_RELAY),
    ],
)
def test_failures_behind_a_certificate(
    error: TransportError, certificate: OuterCertificate | None, kind: FailureKind
) -> None:
    failure = explain_failure(error.failure, certificate)
    assert failure.kind is kind
    if kind is FailureKind.INTERCEPTION_FAILED:
        assert "issued by Corp CA" in failure.text
        assert "a public one is needed" in (failure.remedy or "")
