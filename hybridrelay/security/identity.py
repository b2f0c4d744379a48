"""End-to-end identities: a small certificate authority for each hybrid connection, and the certificates it issues.

The authority is created on the administrator's machine and never given to the relay. Each certificate that it issues
contains the hybrid connection, the role and the label in one URI::

    hybridrelay://identity/<hybrid connection>/<role>/<label>

Each part is percent-encoded, so that the URI can be parsed unambiguously. OpenSSL checks the role by extended key
usage (server for connectors, client for applications); `hybridrelay.security.tls` compares the URI.

``cryptography`` is imported inside functions, because importing it takes 90 ms and most runs do not need it.
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import attrs

from ..errors import ConfigurationError
from .encoding import decode_der_untrusted, encode_der
from .names import check_connection_name
from .parsing_certificates import parsing_certificate
from .secret import Secret

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ed25519

#: Certificates are valid from this long before they are issued (two days), for machines whose clocks are slow.
BACKDATE_SECONDS = 2 * 86400
DEFAULT_VALID_YEARS = 10.0
#: A warning is logged if an identity expires within this time (60 days), which leaves time for a change window.
EXPIRY_WARNING_SECONDS = 60 * 86400
MAX_LABEL = 64
_YEAR_SECONDS = 365.25 * 86400
_URI_PREFIX = "hybridrelay://identity/"
#: X.520 allows 64 characters; ``cryptography`` counts bytes.
_MAX_COMMON_NAME_BYTES = 64


class Role(enum.StrEnum):
    """The side of a hybrid connection that an identity is for."""

    CONNECTOR = "connector"
    APPLICATION = "application"

    @property
    def other(self) -> Role:
        """The role on the other end of a data channel."""
        return Role.APPLICATION if self is Role.CONNECTOR else Role.CONNECTOR


def check_label(label: str) -> str:
    """Return `label` if it is valid as the label of an identity.

    Raises:
        ValueError: it is not.
    """
    if not (1 <= len(label) <= MAX_LABEL and label.isprintable() and label == label.strip()):
        raise ValueError(f"a label has 1 to {MAX_LABEL} printable characters, none of them a space at its ends")
    return label


@attrs.frozen
class IdentityName:
    """The content of the URI in a certificate."""

    connection_name: str = attrs.field(validator=lambda _instance, _attribute, value: check_connection_name(value))
    role: Role
    label: str = attrs.field(validator=lambda _instance, _attribute, value: check_label(value))

    @property
    def uri(self) -> str:
        """The URI in the certificate."""
        parts = (self.connection_name, self.role.value, self.label)
        return _URI_PREFIX + "/".join(quote(part, safe="") for part in parts)

    @classmethod
    def parse_untrusted(cls, uri: str) -> IdentityName:
        """Parse a URI. Only the exact encoding of the property `uri` is accepted, no other encoding of the same name.

        Raises:
            ValueError: it is not such a URI.
        """
        parts = uri.removeprefix(_URI_PREFIX).split("/")
        if not uri.startswith(_URI_PREFIX) or len(parts) != 3:
            raise ValueError("not the URI of an identity")
        connection_name, role, label = (unquote(part) for part in parts)
        name = cls(connection_name, Role(role), label)
        if name.uri != uri:
            raise ValueError("not the URI of an identity")
        return name


@attrs.frozen
class IdentityDetails:
    """The content of a certificate. Times are seconds since 1970."""

    name: IdentityName
    #: The serial number in upper case hexadecimal, as `ssl` and OpenSSL's tools print it.
    serial: str
    not_before: float
    not_after: float


@attrs.frozen(slots=False)
class Identity:
    """A certificate and its private key."""

    #: DER.
    certificate: bytes = attrs.field(repr=False)
    #: PKCS #8 DER in Base64.
    private_key: Secret

    @functools.cached_property
    def details(self) -> IdentityDetails:
        """The content of the certificate.

        Raises:
            ConfigurationError: it is not a certificate, or not that of an identity.
        """
        from cryptography import x509

        try:
            with parsing_certificate():
                certificate = x509.load_der_x509_certificate(self.certificate)
                names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
                (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
                return IdentityDetails(
                    name=IdentityName.parse_untrusted(uri),
                    serial=format_serial(certificate.serial_number),
                    not_before=certificate.not_valid_before_utc.timestamp(),
                    not_after=certificate.not_valid_after_utc.timestamp(),
                )
        except ValueError as exc:
            raise ConfigurationError("the certificate is not one of a hybrid connection's identity") from exc

    @property
    def label(self) -> str:
        """The name of the identity in the connector's audit log."""
        return self.details.name.label

    @property
    def role(self) -> Role:
        """The side that the identity is for."""
        return self.details.name.role

    @property
    def serial(self) -> str:
        """The certificate's serial number, in hexadecimal."""
        return self.details.serial


@attrs.frozen
class Authority:
    """The certificate authority of one hybrid connection, with its private key."""

    connection_name: str = attrs.field(validator=lambda _instance, _attribute, value: check_connection_name(value))
    #: DER.
    certificate: bytes = attrs.field(repr=False)
    #: PKCS #8 DER in Base64.
    private_key: Secret

    def issue(self, role: Role, label: str, *, now: float, valid_years: float = DEFAULT_VALID_YEARS) -> Identity:
        """Issue an identity, which expires no later than the authority.

        Args:
            role: connector or application.
            label: its name in the audit log; several identities may have the same label.
            now: seconds since 1970.
            valid_years: how long it is valid.

        Raises:
            ConfigurationError: the authority has expired or is damaged, or the label or `valid_years` is not valid.
        """
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        try:
            name = IdentityName(self.connection_name, role, label)
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from None
        issuer, issuer_key = self._load()
        if _datetime(now) >= issuer.not_valid_after_utc:
            raise ConfigurationError(
                f"the authority of {self.connection_name} has expired",
                remedy="create the hybrid connection again, and give both sides their new connection strings",
            )
        key = _new_key()
        usage = ExtendedKeyUsageOID.SERVER_AUTH if role is Role.CONNECTOR else ExtendedKeyUsageOID.CLIENT_AUTH
        authority_key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            _builder(_subject(f"hybridrelay {role}", label), issuer.subject, key, now)
            .not_valid_after(min(_end(now, valid_years), issuer.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name.uri)]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_key_id), critical=False
            )
            .sign(issuer_key, None)
        )
        return Identity(_der(certificate), _encode_key(key))

    def _load(self) -> tuple[x509.Certificate, ed25519.Ed25519PrivateKey]:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ed25519
        from cryptography.hazmat.primitives.serialization import load_der_private_key

        try:
            with parsing_certificate():
                key = load_der_private_key(decode_der_untrusted(self.private_key.reveal()), password=None)
                certificate = x509.load_der_x509_certificate(self.certificate)
                public_key = certificate.public_key()
                # `issue` needs these parts, so check that they are present.
                certificate.subject.public_bytes()
                certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        except ValueError:
            raise ConfigurationError(f"the authority of {self.connection_name} is damaged") from None
        if not isinstance(key, ed25519.Ed25519PrivateKey) or public_key != key.public_key():
            raise ConfigurationError(f"the authority of {self.connection_name} has a key that is not its own")
        return certificate, key


def create_authority(connection_name: str, *, now: float, valid_years: float = DEFAULT_VALID_YEARS) -> Authority:
    """Create the authority of a new hybrid connection.

    Args:
        connection_name: the name of the hybrid connection.
        now: seconds since 1970.
        valid_years: how long it is valid.

    Raises:
        ConfigurationError: the name or `valid_years` is not valid.
    """
    from cryptography import x509

    try:
        check_connection_name(connection_name)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None
    key = _new_key()
    subject = _subject("hybridrelay authority", connection_name)
    certificate = (
        _builder(subject, subject, key, now)
        .not_valid_after(_end(now, valid_years))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, None)
    )
    return Authority(connection_name, _der(certificate), _encode_key(key))


def expires_soon(identity: Identity, now: float, within_seconds: float = EXPIRY_WARNING_SECONDS) -> bool:
    """Return whether the identity expires within `within_seconds` of `now` (seconds since 1970), or has expired."""
    return identity.details.not_after - now < within_seconds


def format_serial(serial: int) -> str:
    """Format a serial number as `ssl.SSLSocket.getpeercert` does: complete bytes in upper case hexadecimal."""
    digits = f"{serial:X}"
    return digits.zfill(len(digits) + len(digits) % 2)


def _new_key() -> ed25519.Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519.Ed25519PrivateKey.generate()


def _encode_key(key: ed25519.Ed25519PrivateKey) -> Secret:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Secret(encode_der(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())))


def _der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ed25519.Ed25519PrivateKey, now: float
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_datetime(now - BACKDATE_SECONDS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(organization: str, common_name: str) -> x509.Name:
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


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
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


def _datetime(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC)


def _end(now: float, valid_years: float) -> dt.datetime:
    if not 0 < valid_years <= 100:
        raise ConfigurationError("the validity must be more than 0 and at most 100 years")
    return _datetime(now + valid_years * _YEAR_SECONDS)
