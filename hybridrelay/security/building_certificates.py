"""Building X.509 certificates: the parts that authorities, issuers and identities have in common.

``cryptography`` is imported inside functions, because importing it takes 90 ms and most runs do not need it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from .encoding import decode_der_untrusted, encode_der
from .parsing_certificates import parsing_certificate
from .secret import Secret

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ed25519

__all__ = [
    "BACKDATE_SECONDS",
    "certificate_builder",
    "certificate_der",
    "encode_key",
    "end_of_validity",
    "identity_extensions",
    "key_usage",
    "load_ca",
    "new_key",
    "serial_for",
    "sign_identity",
    "subject_name",
    "to_datetime",
]

#: Certificates are valid from this long before they are issued (two days), for machines whose clocks are slow.
BACKDATE_SECONDS = 2 * 86400
_YEAR_SECONDS = 365.25 * 86400
#: X.520 allows 64 characters; ``cryptography`` counts bytes.
_MAX_COMMON_NAME_BYTES = 64


def load_ca(certificate: bytes, private_key: Secret, what: str) -> tuple[x509.Certificate, ed25519.Ed25519PrivateKey]:
    """Load the certificate and the private key of an authority or issuer.

    Args:
        certificate: DER.
        private_key: PKCS #8 DER in Base64.
        what: its name, for messages.

    Raises:
        ConfigurationError: one of them is damaged, or they do not belong together.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    try:
        with parsing_certificate():
            key = load_der_private_key(decode_der_untrusted(private_key.reveal()), password=None)
            loaded = x509.load_der_x509_certificate(certificate)
            public_key = loaded.public_key()
            # Issuing needs these parts, so check that they are present.
            loaded.subject.public_bytes()
            loaded.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except ValueError:
        raise ConfigurationError(f"{what} is damaged") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey) or public_key != key.public_key():
        raise ConfigurationError(f"{what} contains a private key that does not belong to its certificate")
    return loaded, key


def sign_identity(
    issuer: x509.Certificate,
    issuer_key: ed25519.Ed25519PrivateKey,
    public_key: ed25519.Ed25519PublicKey,
    *,
    subject: x509.Name,
    uri: str,
    is_server: bool,
    now: float,
    end: dt.datetime,
) -> bytes:
    """Sign the certificate of an identity.

    Args:
        issuer: the certificate of the authority or issuer; the new certificate expires no later than it.
        issuer_key: its private key.
        public_key: the public key of the identity.
        subject: shown to people.
        uri: the identity's name; see `IdentityName`.
        is_server: whether it is for servers only, or for clients only.
        now: seconds since 1970.
        end: when it expires.

    Returns:
        The certificate in DER.
    """
    builder = certificate_builder(subject, issuer.subject, public_key, now)
    builder = builder.not_valid_after(min(end, issuer.not_valid_after_utc))
    for value, critical in identity_extensions(issuer, public_key, uri=uri, is_server=is_server)[1:]:
        builder = builder.add_extension(value, critical=critical)
    return certificate_der(builder.sign(issuer_key, None))


def identity_extensions(
    issuer: x509.Certificate, public_key: Any, *, uri: str, is_server: bool
) -> list[tuple[x509.ExtensionType, bool]]:
    """Return the extensions of an identity's certificate, and whether each is critical. The first one, which names
    the key, is in all certificates (`certificate_builder`).

    Args:
        issuer: the certificate of the authority or issuer.
        public_key: the public key of the identity.
        uri, is_server: see `sign_identity`.

    Raises:
        x509.ExtensionNotFound: `issuer` does not name its key.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer_key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return [
        (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([usage]), True),
        (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id), False),
    ]


def new_key() -> ed25519.Ed25519PrivateKey:
    """Make a new private key."""
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519.Ed25519PrivateKey.generate()


def encode_key(key: ed25519.Ed25519PrivateKey) -> Secret:
    """Encode a private key as PKCS #8 DER in Base64."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Secret(encode_der(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())))


def certificate_der(certificate: x509.Certificate) -> bytes:
    """Return a certificate in DER."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def certificate_builder(
    subject: x509.Name, issuer: x509.Name, public_key: ed25519.Ed25519PublicKey, now: float
) -> x509.CertificateBuilder:
    """Begin a certificate that is valid from `BACKDATE_SECONDS` before `now` (seconds since 1970)."""
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial_for(public_key))
        .not_valid_before(to_datetime(now - BACKDATE_SECONDS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def serial_for(public_key: ed25519.Ed25519PublicKey) -> int:
    """Return the serial number of a certificate for a key.

    It is a hash of the key, and not random, so that nobody who signs a certificate can choose it: a thief with an
    issuer could give an application a serial that deny lists contain. RFC 5280 allows 20 bytes, and no sign.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    encoded = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    number = int.from_bytes(hashlib.sha256(b"hybridrelay serial number\n" + encoded).digest()[:20], "big") >> 1
    return number or 1


def subject_name(organization: str, common_name: str) -> x509.Name:
    """Make a name that people see in the certificate. It is never compared."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    shown = common_name.encode()[:_MAX_COMMON_NAME_BYTES].decode(errors="ignore")
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, shown),
        ]
    )


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return the extension that allows a key to sign only certificates, or only handshakes."""
    from cryptography import x509

    usages: dict[str, Any] = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(digital_signature=not signs_certificates, key_cert_sign=signs_certificates, **usages)


def to_datetime(seconds: float) -> dt.datetime:
    """Convert seconds since 1970, without their fraction."""
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC)


def end_of_validity(now: float, valid_years: float) -> dt.datetime:
    """Return when a certificate that is issued now, for a number of years, expires.

    Raises:
        ConfigurationError: the number is not above 0, or is above 100.
    """
    if not 0 < valid_years <= 100:
        raise ConfigurationError("the validity must be more than 0 and at most 100 years")
    return to_datetime(now + valid_years * _YEAR_SECONDS)
