"""What a claim's secret is used for: finding the claim, taking it, and decrypting it. Pure.

From the secret S of 20 bytes, HKDF-SHA256 (RFC 5869, salt ``hybridrelay claim v1``) derives independent values:

    info ``id``        16 bytes: the id of the claim at the relay
    info ``proof``     32 bytes: proves to the relay that its sender has the code; the relay stores only its SHA-256
    info ``seal``      32 bytes: the key of ChaCha20-Poly1305 (RFC 8439), which the relay never has
    info ``identity``  32 bytes: the Ed25519 private key of a claim certificate

A claim has one of two contents. Version 1 is a connection string. Version 2 has no private key: it is a connection
string without an identity, the authority's certificate, and a claim certificate (`issuer.py`), for whose key the
taker needs the code. With it, the taker asks a connector for an identity, once.

The sealed content is JSON (UTF-8), padded with spaces to a multiple of 1,024 bytes, so that its length does not tell
whether it is for a connector or an application. The nonce is zero, because each secret seals exactly one content. The
additional data is the id, so that the relay cannot exchange the contents of two claims.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeAlias

import attrs

from .._value import Value
from ..errors import ClaimError, ConnectionStringError
from .claim_code import ClaimCode
from .connection_string import ConnectionString, parse_connection_string_untrusted
from .encoding import decode_der_untrusted, encode_der
from .issuer import claim_private_key
from .secret import Secret

__all__ = ["MAX_SEALED", "ClaimBundle", "ClaimContent", "ClaimKeys", "open_claim_untrusted", "seal_claim"]

#: The maximum size of a sealed content (bytes). A connection string has about 2 KB.
#: A multiple of three, so that the longest Base64 text has no padding, and a schema can state its length.
MAX_SEALED = 16 * 1024 - 1

_SALT = b"hybridrelay claim v1"
_PADDING = 1024
_TAG = 16
_NONCE = bytes(12)
_VERSION = 1
_VERSION_OF_BUNDLE = 2
_NEW_CLAIM = "the claim is used up: ask the administrator to create a new one"


@attrs.frozen
class ClaimKeys(Value):
    """The values that are derived from the secret of a claim."""

    #: 32 lower-case hexadecimal digits.
    id: str
    #: 64 lower-case hexadecimal digits.
    proof: Secret
    _seal: bytes = attrs.field(repr=False)
    _identity: bytes = attrs.field(repr=False)

    @classmethod
    def of(cls, code: ClaimCode) -> ClaimKeys:
        """Derive the values from the secret of a code."""
        secret = code.secret_bytes()
        return cls(
            _derive(secret, b"id", 16).hex(),
            Secret(_derive(secret, b"proof", 32).hex()),
            _derive(secret, b"seal", 32),
            _derive(secret, b"identity", 32),
        )

    def private_key(self) -> Secret:
        """Return the private key of the claim certificate: PKCS #8 DER in Base64."""
        return claim_private_key(self._identity)

    @property
    def proof_digest(self) -> str:
        """What the relay stores: the SHA-256 of the proof's 32 bytes, as 64 hexadecimal digits."""
        return hashlib.sha256(bytes.fromhex(self.proof.reveal())).hexdigest()


def _derive(secret: bytes, info: bytes, size: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=size, salt=_SALT, info=info).derive(secret)


@attrs.frozen
class ClaimBundle(Value):
    """The content of a claim without a private key."""

    #: An application's connection string without an identity.
    string: ConnectionString
    #: The authority's certificate (DER).
    authority: bytes = attrs.field(repr=False)
    #: The claim certificate (DER).
    certificate: bytes = attrs.field(repr=False)


#: What can be sealed.
ClaimContent: TypeAlias = ConnectionString | ClaimBundle


def seal_claim(keys: ClaimKeys, content: ClaimContent) -> bytes:
    """Encrypt the content of a claim. Call it once for each secret.

    Raises:
        ClaimError: the connection string is too long.
    """
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    text = json.dumps(_to_json(content)).encode()
    text += b" " * (-len(text) % _PADDING)
    # The padded text and the tag have to fit, so the longest padded text has 15 KiB.
    if len(text) + _TAG > MAX_SEALED:
        raise ClaimError("the connection string is too long for a claim", remedy="name fewer relays in it")
    return ChaCha20Poly1305(keys._seal).encrypt(_NONCE, text, keys.id.encode("ascii"))


def _to_json(content: ClaimContent) -> dict[str, object]:
    if isinstance(content, ConnectionString):
        return {"version": _VERSION, "connectionString": content.format()}
    return {
        "version": _VERSION_OF_BUNDLE,
        "connectionString": content.string.format(),
        "authority": encode_der(content.authority),
        "claimCertificate": encode_der(content.certificate),
    }


def open_claim_untrusted(keys: ClaimKeys, sealed: bytes) -> ClaimContent:
    """Decrypt what a relay has delivered.

    Raises:
        ClaimError: it was not sealed for this claim, or its content is of another version. The message contains
            no part of it.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    if not _TAG < len(sealed) <= MAX_SEALED:
        raise ClaimError("what the relay has delivered is not the content of a claim", remedy=_NEW_CLAIM)
    try:
        content = ChaCha20Poly1305(keys._seal).decrypt(_NONCE, sealed, keys.id.encode("ascii"))
    except InvalidTag:
        raise ClaimError("what the relay has delivered was not sealed for this claim", remedy=_NEW_CLAIM) from None
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ClaimError("the content of the claim is damaged", remedy=_NEW_CLAIM) from None
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, bool) or version not in (_VERSION, _VERSION_OF_BUNDLE):
        raise ClaimError(
            "the content of the claim was made by another version of hybridrelay",
            remedy="use the version with which the claim was created, and ask for a new claim",
        )
    try:
        string = parse_connection_string_untrusted(_text(value, "connectionString"))
    except ConnectionStringError as exc:
        raise ClaimError(f"the content of the claim cannot be used: {exc}", remedy=_NEW_CLAIM) from None
    if version == _VERSION:
        return string
    try:
        authority = decode_der_untrusted(_text(value, "authority"))
        certificate = decode_der_untrusted(_text(value, "claimCertificate"))
    except ValueError:
        raise ClaimError("the claim certificate is damaged", remedy=_NEW_CLAIM) from None
    if string.identity is not None or string.target is not None:
        raise ClaimError("the content of the claim contradicts itself", remedy=_NEW_CLAIM)
    return ClaimBundle(string, authority, certificate)


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise ClaimError("the content of the claim is not a connection string", remedy=_NEW_CLAIM)
    return text
