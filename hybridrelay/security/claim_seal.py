"""What a claim's secret is used for: finding the claim, taking it, and decrypting it. Pure.

From the secret S of 20 bytes, HKDF-SHA256 (RFC 5869, salt ``hybridrelay claim v1``) derives three independent values:

    info ``mailbox``   16 bytes: the id of the claim at the relay
    info ``proof``     32 bytes: proves to the relay that its sender has the code; the relay stores only its SHA-256
    info ``seal``      32 bytes: the key of ChaCha20-Poly1305 (RFC 8439), which the relay never has

The sealed content is JSON (UTF-8), padded with spaces to a multiple of 1,024 bytes, so that its length does not tell
whether it is for a connector or an application. The nonce is zero, because each secret seals exactly one content. The
additional data is the id, so that the relay cannot exchange the contents of two claims.
"""

from __future__ import annotations

import hashlib
import json

import attrs

from ..errors import ClaimError, ConnectionStringError
from .claim_code import ClaimCode
from .connection_string import ConnectionString, parse_connection_string_untrusted
from .secret import Secret

__all__ = ["MAX_SEALED", "ClaimKeys", "open_claim_untrusted", "seal_claim"]

#: The maximum size of a sealed content (bytes). A connection string has about 2 KB.
#: A multiple of three, so that the longest Base64 text has no padding, and a schema can state its length.
MAX_SEALED = 16 * 1024 - 1

_SALT = b"hybridrelay claim v1"
_PADDING = 1024
_TAG = 16
_NONCE = bytes(12)
_VERSION = 1
_NEW_CLAIM = "the claim is used up: ask the administrator to create a new one"


@attrs.frozen
class ClaimKeys:
    """The values that are derived from the secret of a claim."""

    #: 32 lower-case hexadecimal digits.
    mailbox: str
    #: 64 lower-case hexadecimal digits.
    proof: Secret
    _seal: bytes = attrs.field(repr=False)

    @classmethod
    def of(cls, code: ClaimCode) -> ClaimKeys:
        """Derive the values from the secret of a code."""
        secret = code.secret_bytes()
        return cls(
            _derive(secret, b"mailbox", 16).hex(),
            Secret(_derive(secret, b"proof", 32).hex()),
            _derive(secret, b"seal", 32),
        )

    @property
    def proof_digest(self) -> str:
        """What the relay stores: the SHA-256 of the proof's 32 bytes, as 64 hexadecimal digits."""
        return hashlib.sha256(bytes.fromhex(self.proof.reveal())).hexdigest()


def _derive(secret: bytes, info: bytes, size: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=size, salt=_SALT, info=info).derive(secret)


def seal_claim(keys: ClaimKeys, string: ConnectionString) -> bytes:
    """Encrypt a connection string for a claim. Call it once for each secret.

    Raises:
        ClaimError: the connection string is too long.
    """
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    content = json.dumps({"version": _VERSION, "connectionString": string.format()}).encode()
    content += b" " * (-len(content) % _PADDING)
    # The longest content for which there is room is a whole number of paddings, less the tag.
    if len(content) + _TAG > MAX_SEALED:
        raise ClaimError("the connection string is too long for a claim", remedy="name fewer relays in it")
    return ChaCha20Poly1305(keys._seal).encrypt(_NONCE, content, keys.mailbox.encode("ascii"))


def open_claim_untrusted(keys: ClaimKeys, sealed: bytes) -> ConnectionString:
    """Decrypt what a relay has delivered.

    Raises:
        ClaimError: it was not sealed for this claim, or its content is of another version. The message contains
            nothing of it.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    if not _TAG < len(sealed) <= MAX_SEALED:
        raise ClaimError("what the relay has delivered is not the content of a claim", remedy=_NEW_CLAIM)
    try:
        content = ChaCha20Poly1305(keys._seal).decrypt(_NONCE, sealed, keys.mailbox.encode("ascii"))
    except InvalidTag:
        raise ClaimError("what the relay has delivered was not sealed for this claim", remedy=_NEW_CLAIM) from None
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ClaimError("the content of the claim is damaged", remedy=_NEW_CLAIM) from None
    if not isinstance(value, dict) or value.get("version") != _VERSION:
        raise ClaimError(
            "the content of the claim was made by another version of hybridrelay",
            remedy="use the version with which the claim was created, and ask for a new claim",
        )
    text = value.get("connectionString")
    try:
        if not isinstance(text, str):
            raise ClaimError("the content of the claim is not a connection string", remedy=_NEW_CLAIM)
        return parse_connection_string_untrusted(text)
    except ConnectionStringError as exc:
        raise ClaimError(f"the content of the claim cannot be used: {exc}", remedy=_NEW_CLAIM) from None
