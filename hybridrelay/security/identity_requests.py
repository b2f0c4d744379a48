"""Requests for certificates: how a machine asks for an identity without its private key leaving the machine. Pure.

A request is a certification request (PKCS #10, RFC 2986) with an Ed25519 key, an empty subject and no attributes. It
states nothing but the public key, and its signature proves that the sender has the private key. The issuer decides
everything else in the certificate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from .._value import Value
from ..errors import ConfigurationError
from .building_certificates import encode_key, new_key
from .encoding import decode_der_untrusted
from .secret import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ed25519

__all__ = [
    "MAX_REQUEST",
    "IdentityRequest",
    "RequestError",
    "make_request",
    "new_private_key",
    "parse_request_untrusted",
]

#: The maximum size of a request (bytes). Those that `make_request` makes have less than 200.
MAX_REQUEST = 1024
#: The OID of Ed25519 (RFC 8410), for keys and for signatures.
_ED25519 = "1.3.101.112"


class RequestError(ValueError):
    """A request for a certificate is not acceptable. The message says why, without repeating any of it."""


@attrs.frozen
class IdentityRequest(Value):
    """A request whose signature is valid."""

    #: The 32 bytes of the Ed25519 public key.
    public_key: bytes


def new_private_key() -> Secret:
    """Make the private key of a new identity, as PKCS #8 DER in Base64."""
    return encode_key(new_key())


def make_request(private_key: Secret) -> bytes:
    """Return a request (DER) for the public key that belongs to a private key.

    Raises:
        ConfigurationError: the private key is damaged, or not an Ed25519 key.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    request = (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(load_private_key(private_key), None)
    )
    return request.public_bytes(Encoding.DER)


def load_private_key(private_key: Secret) -> ed25519.Ed25519PrivateKey:
    """Load the private key of an identity: PKCS #8 DER in Base64.

    Raises:
        ConfigurationError: it is damaged, or not an Ed25519 key.
    """
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    try:
        key = load_der_private_key(decode_der_untrusted(private_key.reveal()), password=None)
    except (ValueError, TypeError):
        raise ConfigurationError("the private key is damaged") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigurationError("the private key is not an Ed25519 key")
    return key


def parse_request_untrusted(der: bytes) -> IdentityRequest:
    """Parse a request, and verify its signature.

    Raises:
        RequestError: it is too long, not a request, of another algorithm, not signed by its own key, or asks for
            anything besides a certificate for a key.
    """
    if len(der) > MAX_REQUEST:
        raise RequestError(f"the request has more than {MAX_REQUEST} bytes")
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        request = x509.load_der_x509_csr(der)
        algorithm = request.signature_algorithm_oid.dotted_string
        key = request.public_key()
        asks_for_more = bool(list(request.attributes) or list(request.extensions) or list(request.subject))
    except Exception as exc:  # noqa: BLE001 - `cryptography` raises many exceptions; see `parsing_certificate`
        raise RequestError(f"the request cannot be parsed ({type(exc).__name__})") from None
    if algorithm != _ED25519 or not isinstance(key, ed25519.Ed25519PublicKey):
        raise RequestError("the key or signature of the request is not Ed25519")
    if asks_for_more:
        raise RequestError(
            "the request asks for a subject, attributes or extensions; only the issuer decides on them"
        )
    try:
        is_signed = request.is_signature_valid
    except Exception as exc:  # noqa: BLE001 - as above
        raise RequestError(f"the signature cannot be verified ({type(exc).__name__})") from None
    if not is_signed:
        raise RequestError("the request is not signed with the key that it names")
    return IdentityRequest(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
