"""The keys that sign audit files: Ed25519, one for each file."""

from __future__ import annotations

import base64
import binascii
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["SigningKey", "VerifyingKey"]

#: The length of a private and of a public key in bytes.
_KEY_BYTES = 32
#: What the text of a public key begins with.
_PREFIX = "ed25519:"


class VerifyingKey:
    """A public key. Two are equal if they verify the same signatures."""

    def __init__(self, raw: bytes) -> None:
        """`raw` is the key's 32 bytes.

        Raises:
            ValueError: it has another length.
        """
        self._raw = raw
        self._key = Ed25519PublicKey.from_public_bytes(raw)

    @classmethod
    def parse(cls, text: str) -> VerifyingKey:
        """Read what `str` returns.

        Raises:
            ValueError: it is not a public key.
        """
        raw = _decoded(text.removeprefix(_PREFIX)) if text.startswith(_PREFIX) else None
        if raw is None or len(raw) != _KEY_BYTES:
            raise ValueError("not a public key: expected ed25519: and 44 characters")
        return cls(raw)

    def __str__(self) -> str:
        return _PREFIX + base64.b64encode(self._raw).decode()

    def __repr__(self) -> str:
        return f"VerifyingKey({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyingKey) and other._raw == self._raw

    def __hash__(self) -> int:
        return hash(self._raw)

    def verifies(self, signature: str, message: bytes) -> bool:
        """Return whether this key made a signature, which is in base64."""
        raw = _decoded(signature)
        if raw is None:
            return False
        try:
            self._key.verify(raw, message)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A private key. Its text and its `repr` do not contain it."""

    def __init__(self, seed: bytes) -> None:
        """`seed` is the key's 32 bytes.

        Raises:
            ValueError: it has another length.
        """
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = VerifyingKey(self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_file(cls, data: bytes) -> SigningKey:
        """Read what `to_file` returns.

        Raises:
            ValueError: it is not a complete key. The message does not quote it.
        """
        encoded, _, check = data.decode("ascii", "replace").strip().partition(" ")
        seed = _decoded(encoded)
        if seed is None or len(seed) != _KEY_BYTES or check != _check(seed):
            raise ValueError("not a complete key")
        return cls(seed)

    def to_file(self) -> bytes:
        """Return the content of the key's file: the key in base64, a space, a checksum, a line end."""
        seed = self._key.private_bytes_raw()
        return f"{base64.b64encode(seed).decode()} {_check(seed)}\n".encode()

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public})"

    def sign(self, message: bytes) -> str:
        """Return a signature in base64."""
        return base64.b64encode(self._key.sign(message)).decode()


def _check(seed: bytes) -> str:
    """Return a checksum, by which a key file that was not written completely is recognized."""
    return hashlib.sha256(b"hybridrelay audit key\n" + seed).hexdigest()[:16]


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
