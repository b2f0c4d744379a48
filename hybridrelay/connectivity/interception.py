"""Who opens the outer TLS on the way.

Theory of operation. The outer TLS verifies nothing, so a proxy that opens it is not noticed by failing. But the relay
says over its control channel, which is authenticated inside, which outer certificates are its own
(`control.Welcome.outer_pins`); whoever saw another one in the outer handshake was not talking to the relay there.
This changes nothing about safety, since all that is secret runs in TLS inside; people want to know it all the same.

A relay behind a reverse proxy or a CDN does not know the certificate that its clients see, unless it was told
(``--tls-certificate``); then it names none, and nothing is concluded.
"""

from __future__ import annotations

from collections.abc import Collection

import attrs

from ..failure import Failure, FailureKind
from ..security.pins import spki_pin

#: Of an issuer's name (characters); it is whatever the middlebox likes.
_MAX_ISSUER = 120
#: What a gateway says that does not get through: bad gateway, unavailable, timeout, and Cloudflare's own numbers.
_GATEWAY = frozenset({500, 502, 503, 504, *range(520, 531)})


@attrs.frozen
class OuterCertificate:
    """The certificate that the other end of the outer TLS showed, verified by nobody."""

    pin: str
    #: Who made it, for people.
    issuer: str
    self_made: bool

    @classmethod
    def from_der_untrusted(cls, der: bytes) -> OuterCertificate:
        """Look at a certificate. What cannot be read is a certificate all the same: of nobody known."""
        from cryptography import x509

        try:
            certificate = x509.load_der_x509_certificate(der)
            # Common name, else organization: the full name is long, and says little more.
            names = {attribute.rfc4514_attribute_name: str(attribute.value) for attribute in certificate.issuer}
            issuer = names.get("CN") or names.get("O") or ""
            self_made = certificate.issuer == certificate.subject
            pin = spki_pin(der)
        except ValueError:
            return cls("", "unknown", self_made=False)
        printable = "".join(char if char.isprintable() else " " for char in issuer[:_MAX_ISSUER]).strip()
        return cls(pin, printable or "unknown", self_made)

    def opened_by(self, outer_pins: Collection[str]) -> str | None:
        """Who opens the outer TLS, given what the relay says are its own; None: nobody, or it is not known."""
        return None if not outer_pins or self.pin in outer_pins else self.issuer


def explain_failure(failure: Failure, certificate: OuterCertificate | None) -> Failure:
    """The failure of an attempt, given the certificate that was shown in its outer TLS.

    A gateway's HTTP error, together with a certificate that somebody issued, does not come from the relay: a relay
    never answers with such an error, and a certificate that it made itself is self-signed.
    """
    if failure.http_status not in _GATEWAY or certificate is None or certificate.self_made:
        return failure
    usual = Failure.of(FailureKind.INTERCEPTION_FAILED)
    text = f"{usual.text} (HTTP {failure.http_status}, certificate issued by {certificate.issuer})"
    return attrs.evolve(usual, text=text, step=failure.step)
