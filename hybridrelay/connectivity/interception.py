"""Detecting interception of the outer TLS.

The outer TLS verifies nothing, so a proxy that intercepts it does not cause an error. However, the relay states over
its control channel, which is authenticated, which outer certificates are its own (`control.Welcome.outer_pins`). If
the other end of the outer TLS presented a different certificate, something in between intercepts the outer TLS.
Security does not suffer, because everything secret is inside another layer of TLS, but administrators want to know.

A relay that is reached through a reverse proxy or a CDN does not know the certificate that clients see, unless its
administrator names it (``--tls-certificate``). Otherwise it states none, and no interception is reported.
"""

from __future__ import annotations

from collections.abc import Collection

import attrs

from .._printable import printable
from .._value import Value
from ..failure import Failure, FailureKind
from ..security.parsing_certificates import parsing_certificate
from ..security.pins import spki_pin

#: The longest part of an issuer's name that is shown (characters). The middlebox chooses the name.
_MAX_ISSUER = 120
#: HTTP statuses of a gateway that cannot reach the server: 5xx, and Cloudflare's own numbers.
_GATEWAY = frozenset({500, 502, 503, 504, *range(520, 531)})


@attrs.frozen
class OuterCertificate(Value):
    """The certificate that the other end of the outer TLS presented. It has not been verified."""

    pin: str
    #: The issuer's name, for people.
    issuer: str
    self_signed: bool

    @classmethod
    def from_der_untrusted(cls, der: bytes) -> OuterCertificate:
        """Parse a certificate. If that is impossible, the result has no pin and an unknown issuer."""
        from cryptography import x509

        try:
            with parsing_certificate():
                certificate = x509.load_der_x509_certificate(der)
                # The common name, or else the organization. The full name is long and adds little.
                names = {attribute.rfc4514_attribute_name: str(attribute.value) for attribute in certificate.issuer}
                self_signed = certificate.issuer == certificate.subject
            issuer = names.get("CN") or names.get("O") or ""
            pin = spki_pin(der)
        except ValueError:
            return cls("", "unknown", self_signed=False)
        return cls(pin, printable(issuer[:_MAX_ISSUER]).strip() or "unknown", self_signed)

    def intercepted_by(self, outer_pins: Collection[str]) -> str | None:
        """Return the issuer if this is not one of the relay's own certificates; None if it is, or if they are
        unknown."""
        return None if not outer_pins or self.pin in outer_pins else self.issuer


def explain_failure(failure: Failure, certificate: OuterCertificate | None) -> Failure:
    """Return a better explanation of a failure, if the certificate in the outer TLS gives one.

    An HTTP gateway error under a certificate that is not self-signed comes from a proxy or gateway in front of the
    relay: a relay never answers with such an error, and a certificate that it generates is self-signed.
    """
    if failure.http_status not in _GATEWAY or certificate is None or certificate.self_signed:
        return failure
    usual = Failure.of(FailureKind.INTERCEPTION_FAILED)
    text = f"{usual.text} (HTTP {failure.http_status}, certificate issued by {certificate.issuer})"
    return attrs.evolve(usual, text=text, step=failure.step)
