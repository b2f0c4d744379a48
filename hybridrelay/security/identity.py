"""End-to-end identities: a small certificate authority for each hybrid connection, and the certificates it issues.

The authority is created on the administrator's machine (with ``connections create --state``: on the relay's), and
the relay never needs it. Each certificate that it issues contains the hybrid connection, the role and the label in
one URI::

    hybridrelay://identity/<hybrid connection>/<role>/<label>

Each part is percent-encoded, so that the URI can be parsed unambiguously. OpenSSL checks the role by extended key
usage (server for connectors, client for applications); `hybridrelay.security.tls` compares the URI.

``cryptography`` is imported inside functions, because importing it takes 90 ms and most runs do not need it.
"""

from __future__ import annotations

import enum
import functools
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import attrs

from .._value import Value
from ..errors import ConfigurationError
from .building_certificates import (
    certificate_builder,
    certificate_der,
    encode_key,
    end_of_validity,
    key_usage,
    load_ca,
    new_key,
    sign_identity,
    subject_name,
    to_datetime,
)
from .names import check_connection_name
from .parsing_certificates import parsing_certificate
from .secret import Secret

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ed25519

DEFAULT_VALID_YEARS = 10.0
MAX_LABEL = 64
_URI_PREFIX = "hybridrelay://identity/"


class Role(enum.StrEnum):
    """The side of a hybrid connection that an identity is for."""

    CONNECTOR = "connector"
    APPLICATION = "application"
    #: For one request for an application's identity, by a machine that has taken a claim.
    CLAIM = "claim"

    @property
    def other(self) -> Role:
        """The role at the other end of a data channel."""
        return Role.APPLICATION if self is Role.CONNECTOR else Role.CONNECTOR


#: The roles for which there are connection strings.
SIDES = (Role.CONNECTOR, Role.APPLICATION)


def check_label(label: str) -> str:
    """Return `label` if it is valid as the label of an identity.

    Raises:
        ValueError: it is not.
    """
    if not (1 <= len(label) <= MAX_LABEL and label.isprintable() and label == label.strip()):
        raise ValueError(f"a label has 1 to {MAX_LABEL} printable characters, none of them a space at its ends")
    return label


@attrs.frozen
class IdentityName(Value):
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
class IdentityDetails(Value):
    """The content of a certificate. Times are seconds since 1970."""

    name: IdentityName
    #: The serial number in upper case hexadecimal, as `ssl` and OpenSSL's tools print it.
    serial: str
    not_before: float
    not_after: float


def details_of(certificate: bytes) -> IdentityDetails:
    """Return the content of an identity's certificate (DER).

    Raises:
        ConfigurationError: it is not a certificate, or not that of an identity.
    """
    from cryptography import x509

    try:
        with parsing_certificate():
            loaded = x509.load_der_x509_certificate(certificate)
            names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
            return IdentityDetails(
                name=IdentityName.parse_untrusted(uri),
                serial=format_serial(loaded.serial_number),
                not_before=loaded.not_valid_before_utc.timestamp(),
                not_after=loaded.not_valid_after_utc.timestamp(),
            )
    except ValueError as exc:
        raise ConfigurationError("the certificate is not that of an identity of a hybrid connection") from exc


def _end_of(issuer: bytes) -> float:
    from cryptography import x509

    try:
        with parsing_certificate():
            return x509.load_der_x509_certificate(issuer).not_valid_after_utc.timestamp()
    except ValueError as exc:
        raise ConfigurationError("the certificate of the identity's issuer is damaged") from exc


@attrs.frozen(slots=False)
class Identity:
    """A certificate and its private key."""

    #: DER.
    certificate: bytes = attrs.field(repr=False)
    #: PKCS #8 DER in Base64.
    private_key: Secret
    #: The certificate (DER) of the issuer that has made it; None if the authority has issued it directly.
    issuer: bytes | None = attrs.field(default=None, repr=False)

    @functools.cached_property
    def details(self) -> IdentityDetails:
        """The content of the certificate. It expires with its issuer, if that expires earlier.

        Raises:
            ConfigurationError: it is not a certificate, or not that of an identity, or its issuer's is damaged.
        """
        details = details_of(self.certificate)
        if self.issuer is None:
            return details
        return attrs.evolve(details, not_after=min(details.not_after, _end_of(self.issuer)))

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
class Authority(Value):
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
        try:
            name = IdentityName(self.connection_name, role, label)
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from None
        issuer, issuer_key = self.load(now)
        key = new_key()
        certificate = sign_identity(
            issuer,
            issuer_key,
            key.public_key(),
            subject=subject_name(f"hybridrelay {role}", label),
            uri=name.uri,
            is_server=role is Role.CONNECTOR,
            now=now,
            end=end_of_validity(now, valid_years),
        )
        return Identity(certificate, encode_key(key))

    def load(self, now: float) -> tuple[x509.Certificate, ed25519.Ed25519PrivateKey]:
        """Return the certificate and private key of the authority, for signing at `now` (seconds since 1970).

        Raises:
            ConfigurationError: the authority has expired or is damaged.
        """
        certificate, key = load_ca(self.certificate, self.private_key, f"the authority of {self.connection_name}")
        if to_datetime(now) >= certificate.not_valid_after_utc:
            raise ConfigurationError(
                f"the authority of {self.connection_name} has expired",
                remedy="create the hybrid connection again, and give both sides their new connection strings",
            )
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
    key = new_key()
    subject = subject_name("hybridrelay authority", connection_name)
    certificate = (
        certificate_builder(subject, subject, key.public_key(), now)
        .not_valid_after(end_of_validity(now, valid_years))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .sign(key, None)
    )
    return Authority(connection_name, certificate_der(certificate), encode_key(key))


def format_serial(serial: int) -> str:
    """Format a serial number as `ssl.SSLSocket.getpeercert` does: complete bytes in upper case hexadecimal."""
    digits = f"{serial:X}"
    return digits.zfill(len(digits) + len(digits) % 2)
