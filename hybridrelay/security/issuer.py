"""The issuer: a certificate authority below that of the hybrid connection, which can sign only for applications.

A connector has its private key, so that machines get and renew their identities without the administrator, and
without a private key leaving any machine. Three things keep it from making a connector's identity; OpenSSL checks
them:

1. The issuer's certificate has the extended key usage *client* and no other, so that no certificate below it is
   accepted as a server's.
2. Its path length is 0: it cannot make another issuer.
3. The authority's certificate in the connection strings of applications has path length 0: a client accepts only
   connectors whose certificate the authority itself has signed. Only connectors with an issuer have the authority's
   certificate with path length 1 (`authority_for_connectors`). It has the same name and key.

A *claim certificate* has the role *claim*. The authority signs it for a claim's key, which is derived from the secret
in the claim's code. It can be used for a single request, and for nothing else.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

import attrs

from ..errors import ConfigurationError
from ..protocol.issuing import Issued
from .building_certificates import (
    BACKDATE_SECONDS,
    certificate_builder,
    certificate_der,
    encode_key,
    end_of_validity,
    identity_extensions,
    key_usage,
    load_ca,
    new_key,
    serial_for,
    sign_identity,
    subject_name,
    to_datetime,
)
from .identity import Authority, IdentityName, Role, details_of, format_serial
from .identity_requests import IdentityRequest, load_private_key
from .parsing_certificates import parsing_certificate
from .secret import Secret

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ed25519

__all__ = [
    "DEFAULT_ISSUER_YEARS",
    "IDENTITY_SECONDS",
    "Issuer",
    "authority_for_connectors",
    "certify_claim",
    "check_issued_untrusted",
    "claim_private_key",
    "create_issuer",
]

DEFAULT_ISSUER_YEARS = 2.0
#: How long identities that an issuer has signed are valid (90 days).
IDENTITY_SECONDS = 90 * 86_400.0
#: The shortest validity of an identity that is accepted from a connector (half a day). An issuer that expires within
#: a day issues nothing; the rest is for clocks that differ.
_SHORTEST_SECONDS = 43_200.0
#: How long ago its validity may have begun: as far as an issuer dates it back, and as much again for clocks that
#: differ.
_LONGEST_AGO_SECONDS = 2.0 * BACKDATE_SECONDS
#: The organization in the name of an issuer.
ISSUER_ORGANIZATION = "hybridrelay issuer"


@attrs.frozen(slots=False)
class Issuer:
    """An issuer, with its private key. Only connectors have it."""

    #: DER.
    certificate: bytes = attrs.field(repr=False)
    #: PKCS #8 DER in Base64.
    private_key: Secret

    @functools.cached_property
    def not_after(self) -> float:
        """When the issuer's certificate ends (seconds since 1970).

        Raises:
            ConfigurationError: it is damaged.
        """
        certificate, _ = self._load()
        return certificate.not_valid_after_utc.timestamp()

    @functools.cached_property
    def serial(self) -> str:
        """The certificate's serial number, in hexadecimal.

        Raises:
            ConfigurationError: it is damaged.
        """
        certificate, _ = self._load()
        return format_serial(certificate.serial_number)

    def check(self, authority: bytes) -> None:
        """Check that the issuer belongs to an authority (DER), and is what this module makes.

        Raises:
            ConfigurationError: it does not, or is damaged.
        """
        from cryptography import x509

        issuer, _ = self._load()
        try:
            with parsing_certificate():
                above = x509.load_der_x509_certificate(authority)
                issuer.verify_directly_issued_by(above)
                allowed = above.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
                is_issuer = _is_issuer(issuer)
        except ValueError:
            raise ConfigurationError("the issuer was not made by the authority of the connection string") from None
        if not is_issuer or allowed == 0:
            raise ConfigurationError(
                "the issuer in the connection string is not limited to identities of applications"
            )

    def sign(
        self,
        connection_name: str,
        label: str,
        request: IdentityRequest,
        *,
        now: float,
        seconds: float = IDENTITY_SECONDS,
    ) -> Issued:
        """Sign the certificate of an application, which expires no later than the issuer.

        Args:
            connection_name: the hybrid connection.
            label: the application's name in the audit log.
            request: has the public key.
            now: seconds since 1970.
            seconds: how long it is valid.

        Raises:
            ConfigurationError: the issuer has expired or is damaged, or the label is not valid.
        """
        from cryptography.hazmat.primitives.asymmetric import ed25519

        name = _name(connection_name, Role.APPLICATION, label)
        certificate, key = self._load()
        if to_datetime(now) >= certificate.not_valid_after_utc:
            raise ConfigurationError("the issuer has expired", remedy=_RENEW_ISSUER)
        signed = sign_identity(
            certificate,
            key,
            ed25519.Ed25519PublicKey.from_public_bytes(request.public_key),
            subject=_subject(name),
            uri=name.uri,
            is_server=False,
            now=now,
            end=to_datetime(now + seconds),
        )
        return Issued(signed, self.certificate)

    def _load(self) -> tuple[x509.Certificate, ed25519.Ed25519PrivateKey]:
        return load_ca(self.certificate, self.private_key, "the issuer")


_COMPARE_CLOCKS = "compare the clocks of both machines"
_RENEW_ISSUER = "make a new issuer with the authority file: hybridrelay connections issuer --help"


def create_issuer(authority: Authority, *, now: float, valid_years: float = DEFAULT_ISSUER_YEARS) -> Issuer:
    """Make an issuer, which expires no later than the authority.

    Args:
        authority: signs it.
        now: seconds since 1970.
        valid_years: how long it is valid.

    Raises:
        ConfigurationError: the authority has expired or is damaged, or `valid_years` is not valid.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    above, above_key = authority.load(now)
    key = new_key()
    key_id = above.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    signed = (
        certificate_builder(
            subject_name(ISSUER_ORGANIZATION, authority.connection_name), above.subject, key.public_key(), now
        )
        .not_valid_after(min(end_of_validity(now, valid_years), above.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
        .sign(above_key, None)
    )
    return Issuer(certificate_der(signed), encode_key(key))


def authority_for_connectors(authority: Authority) -> bytes:
    """Return the authority's certificate (DER) with path length 1, for connectors that have an issuer.

    It is always the same for the same authority.

    Raises:
        ConfigurationError: the authority is damaged.
    """
    from cryptography import x509

    plain, key = load_ca(
        authority.certificate, authority.private_key, f"the authority of {authority.connection_name}"
    )
    serial = int.from_bytes(hashlib.sha256(authority.certificate).digest()[:16], "big") | 1
    signed = (
        x509.CertificateBuilder()
        .subject_name(plain.subject)
        .issuer_name(plain.subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(plain.not_valid_before_utc)
        .not_valid_after(plain.not_valid_after_utc)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .sign(key, None)
    )
    return certificate_der(signed)


def claim_private_key(seed: bytes) -> Secret:
    """Return the private key (PKCS #8 DER in Base64) that belongs to a seed of 32 bytes."""
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return encode_key(ed25519.Ed25519PrivateKey.from_private_bytes(seed))


def certify_claim(authority: Authority, label: str, private_key: Secret, *, now: float, expires_at: float) -> bytes:
    """Sign a claim certificate.

    Args:
        authority: signs it.
        label: the label of the identity that will be issued for this claim.
        private_key: the claim's private key; only its public key is used.
        now: seconds since 1970.
        expires_at: when it expires (seconds since 1970).

    Returns:
        The certificate in DER.

    Raises:
        ConfigurationError: the authority has expired or is damaged, or the label is not valid.
    """
    name = _name(authority.connection_name, Role.CLAIM, label)
    above, above_key = authority.load(now)
    return sign_identity(
        above,
        above_key,
        load_private_key(private_key).public_key(),
        subject=_subject(name),
        uri=name.uri,
        is_server=False,
        now=now,
        end=to_datetime(expires_at),
    )


def check_issued_untrusted(
    issued: Issued, authority: bytes, name: IdentityName, private_key: Secret, *, now: float, lasts_until: float = 0.0
) -> None:
    """Check what a connector has answered to a request of this side, before it replaces anything.

    Only what an issuer makes (`Issuer.sign`) is accepted. Other connectors accept nothing else, either: if a stolen
    connector could answer with anything less, the program would be left without an identity.

    Args:
        issued: the answer.
        authority: the authority's certificate (DER).
        name: the name that the identity has to have.
        private_key: the private key for which it was requested.
        now: seconds since 1970.
        lasts_until: when the identity that it is to replace ends (seconds since 1970). The new one must not end
            earlier.

    Raises:
        ConfigurationError: it cannot be used. The message says why.
    """
    from cryptography import x509

    details = details_of(issued.certificate)
    if details.name != name:
        raise ConfigurationError("the connector has issued an identity with another name")
    if details.not_after <= now:
        raise ConfigurationError("the connector has issued an identity that has expired", remedy=_COMPARE_CLOCKS)
    if details.not_before > now:
        raise ConfigurationError("the connector has issued an identity that is not valid yet", remedy=_COMPARE_CLOCKS)
    if details.not_before < now - _LONGEST_AGO_SECONDS:  # such identities would be renewed again and again
        raise ConfigurationError("the connector has issued an identity that began long ago", remedy=_COMPARE_CLOCKS)
    if details.not_after < max(lasts_until, now + _SHORTEST_SECONDS):
        raise ConfigurationError(
            "the connector has issued an identity that expires too early",
            remedy="replace the connector's issuer if it expires soon: hybridrelay connections issuer --help",
        )
    try:
        with parsing_certificate():
            leaf, issuer = (x509.load_der_x509_certificate(der) for der in (issued.certificate, issued.issuer))
            leaf.verify_directly_issued_by(issuer)
            issuer.verify_directly_issued_by(x509.load_der_x509_certificate(authority))
            is_made_by_issuer = _is_issuer(issuer) and _is_as_signed(leaf, issuer, name)
            is_issuer_valid = issuer.not_valid_before_utc.timestamp() <= now < issuer.not_valid_after_utc.timestamp()
            ends_with_issuer = leaf.not_valid_after_utc <= issuer.not_valid_after_utc
            is_ours = leaf.public_key() == load_private_key(private_key).public_key()
    except ValueError:
        raise ConfigurationError(
            "the connector has issued an identity that is not signed under the authority"
        ) from None
    if not is_made_by_issuer:
        raise ConfigurationError("the connector has issued an identity that is unlike those of an issuer")
    if not is_issuer_valid:
        raise ConfigurationError("the issuer of the connector is not valid now", remedy=_COMPARE_CLOCKS)
    if not ends_with_issuer:  # no issuer makes one, and no connector would accept it after the issuer's end
        raise ConfigurationError("the connector has issued an identity that expires after its issuer")
    if not is_ours:
        raise ConfigurationError("the connector has issued an identity for another key")


def _is_issuer(certificate: x509.Certificate) -> bool:
    """Return whether a certificate has the form of an issuer's. Does not check its signature. Raises ValueError."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return limits.ca and limits.path_length == 0 and list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def _is_as_signed(leaf: x509.Certificate, issuer: x509.Certificate, name: IdentityName) -> bool:
    """Return whether a certificate is like those that `Issuer.sign` makes, apart from signature and times.

    Raises:
        ValueError: a certificate is malformed.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ed25519

    public_key = leaf.public_key()
    if not isinstance(public_key, ed25519.Ed25519PublicKey):
        return False
    expected = identity_extensions(issuer, public_key, uri=name.uri, is_server=False)
    found = {(one.oid, one.critical): one.value for one in leaf.extensions}
    return (
        leaf.version is x509.Version.v3
        and leaf.serial_number == serial_for(public_key)
        and leaf.subject == _subject(name)
        and found == {(value.oid, critical): value for value, critical in expected}
    )


def _subject(name: IdentityName) -> x509.Name:
    return subject_name(f"hybridrelay {name.role}", name.label)


def _name(connection_name: str, role: Role, label: str) -> IdentityName:
    try:
        return IdentityName(connection_name, role, label)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None
