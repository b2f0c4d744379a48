"""Updates: documents with which an authority changes the relays, pins and target in connection strings. Pure.

A relay stores an update and delivers it. It can neither make nor change nor read one:

- The authority signs the update with its Ed25519 key (RFC 8032). The signed bytes begin with a text that
  occurs in no other signature of this key, which otherwise signs only certificates. They also name the recipients
  (hybrid connection, side, and optionally the serial of one identity), so that an update cannot be given to others.
- The update is encrypted with ChaCha20-Poly1305 (RFC 8439), with a key that all recipients of one side share. It is
  derived from the authority's private key with HKDF-SHA256 (RFC 5869), and is in each connection string that the
  authority issues (``UpdateKey``). So the administrator needs no list of the identities. No relay ever has the key.
  The encryption only hides the content from relays: anyone with a connection string of that side can read an update,
  but cannot forge one.

The plain content is the signature (64 bytes), then JSON (UTF-8), padded with spaces. The document is a random nonce
of 12 bytes and the encrypted content. The additional data is the text at the beginning of the signed bytes, followed
by the hybrid connection, a line feed and the side.

An update states everything that updates have ever set for its recipients, so that only the latest one is needed.
Its *sequence* grows with each one. A recipient uses only one that is later than the last one that it has used.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import attrs

from .._value import Value
from ..errors import ConfigurationError, UpdateError
from .connection_string import MAX_RELAY_PINS, MAX_SEQUENCE, ConnectionString
from .encoding import decode_der_untrusted
from .endpoints import Endpoint, check_hosts
from .identity import Authority, Role
from .names import check_connection_name
from .parsing_certificates import parsing_certificate
from .pins import check_pin
from .secret import Secret
from .targets import Target
from .update_content import content_as_json, content_of_json_untrusted, text_in, texts_in

__all__ = [
    "MAX_EXCLUDED",
    "MAX_UPDATE",
    "Update",
    "authority_key_of",
    "open_update_untrusted",
    "seal_update",
    "update_key",
]

#: The maximum size of a document (bytes). One with the most and longest relays and pins has about 4,000.
MAX_UPDATE = 4608
#: The most identities that an update for a whole side can leave out.
MAX_EXCLUDED = 16

_CONTEXT = b"hybridrelay update v1\n"
_SALT = b"hybridrelay update key v1"
_VERSION = 1
_PADDING = 256
_NONCE, _SIGNATURE, _TAG = 12, 64, 16
_MAX_SERIAL = 40
_HEX = frozenset("0123456789ABCDEF")
_SIDES = (Role.CONNECTOR, Role.APPLICATION)
_NEW_STRING = "issue another connection string with 'connections issue'"


def _check_side(instance: object, attribute: object, value: Role) -> None:
    if value not in _SIDES:
        raise ValueError("an update is for connectors or for applications")


def _check_serial(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_SERIAL or not _HEX.issuperset(value):
        raise ValueError("a serial number has up to 40 hexadecimal digits in upper case")
    return value


def _check_sequence(instance: object, attribute: object, value: int) -> None:
    if type(value) is not int or not 0 < value <= MAX_SEQUENCE:
        raise ValueError("the sequence is out of range")


def _check_time(instance: object, attribute: object, value: float) -> None:
    if type(value) not in (int, float) or not 0 <= value <= MAX_SEQUENCE or not math.isfinite(value):
        raise ValueError("a time is out of range")


@attrs.frozen
class Update(Value):
    """The content of an update. Attributes that are None change nothing. Times are seconds since 1970.

    Raises:
        ValueError: a value is not valid.
    """

    connection: str = attrs.field(validator=lambda _instance, _attribute, value: check_connection_name(value))
    #: The side that it is for.
    role: Role = attrs.field(validator=_check_side)
    sequence: int = attrs.field(validator=_check_sequence)
    #: A program may begin to use it from `not_before` until `not_after`, and then goes on using it.
    not_after: float = attrs.field(validator=_check_time)
    not_before: float = attrs.field(default=0.0, validator=_check_time)
    #: The serial number of the only identity that it is for; empty if it is for all of this side.
    serial: str = ""
    #: The serial numbers of identities that it is not for, because they have updates of their own.
    excluded: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] | None = None
    pins: tuple[str, ...] | None = None
    target: Target | None = None

    def __attrs_post_init__(self) -> None:
        if self.serial:
            _check_serial(self.serial)
        if len(self.excluded) > MAX_EXCLUDED:
            raise ValueError(f"an update leaves out at most {MAX_EXCLUDED} identities")
        for serial in self.excluded:
            _check_serial(serial)
        if self.endpoints is not None:
            check_hosts([endpoint.host for endpoint in self.endpoints])
        if self.pins is not None and len(self.pins) > MAX_RELAY_PINS:
            raise ValueError(f"at most {MAX_RELAY_PINS} pins")
        for pin in self.pins or ():
            check_pin(pin)
        if self.target is not None and self.role is not Role.CONNECTOR:
            raise ValueError("only connectors have a target")

    def is_for(self, string: ConnectionString) -> bool:
        """Return whether the identity of a connection string of this hybrid connection and side is a recipient."""
        identity, _ = string.require_identity()
        return identity.serial not in self.excluded and self.serial in ("", identity.serial)

    def applied_to(self, string: ConnectionString) -> ConnectionString:
        """Return the connection string after this update.

        Raises:
            ValueError: the result is not valid.
        """
        return attrs.evolve(
            string,
            endpoints=string.endpoints if self.endpoints is None else self.endpoints,
            relay_pins=string.relay_pins if self.pins is None else self.pins,
            target=string.target if self.target is None else self.target,
            update_sequence=self.sequence,
        )


# --- making


def update_key(authority: Authority, role: Role) -> Secret:
    """Return the key with which updates for one side are encrypted, as Base64 of 32 bytes.

    Raises:
        ConfigurationError: the authority is damaged.
    """
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    seed = _private_key(authority).private_bytes_raw()
    info = f"{authority.connection_name}\n{role.value}".encode()
    key = HKDF(algorithm=SHA256(), length=32, salt=_SALT, info=info).derive(seed)
    return Secret(base64.b64encode(key).decode("ascii"))


def seal_update(authority: Authority, update: Update, nonce: bytes) -> bytes:
    """Sign and encrypt an update.

    Args:
        authority: the authority of the hybrid connection.
        update: the content.
        nonce: 12 random bytes, different for each document.

    Raises:
        ConfigurationError: the authority is damaged, or the update is too long.
    """
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    body = json.dumps(_as_json(update), ensure_ascii=False, separators=(",", ":")).encode()
    body += b" " * (-(len(body) + _SIGNATURE) % _PADDING)
    if len(body) + _NONCE + _SIGNATURE + _TAG > MAX_UPDATE:
        raise ConfigurationError("the update is too long", remedy="name fewer relays, or shorter host names")
    signature = _private_key(authority).sign(_CONTEXT + body)
    key = base64.b64decode(update_key(authority, update.role).reveal())
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, signature + body, _binding(update.connection, update.role))


def _private_key(authority: Authority) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    try:
        key = load_der_private_key(decode_der_untrusted(authority.private_key.reveal()), password=None)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"the authority of {authority.connection_name} is damaged")
    return key


def _as_json(update: Update) -> dict[str, object]:
    content: dict[str, object] = {
        "version": _VERSION,
        "connection": update.connection,
        "role": update.role.value,
        "sequence": update.sequence,
        "notBefore": update.not_before,
        "notAfter": update.not_after,
    }
    if update.serial:
        content["serial"] = update.serial
    if update.excluded:
        content["excluded"] = list(update.excluded)
    return {**content, **content_as_json(update.endpoints, update.pins, update.target)}


def _binding(connection: str, role: Role) -> bytes:
    return _CONTEXT + f"{connection}\n{role.value}".encode()


# --- opening


def authority_key_of(string: ConnectionString) -> bytes:
    """Return the public key of the authority of a connection string (32 bytes).

    Raises:
        UpdateError: it has none that can be used.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        _, certificate = string.require_identity()
        with parsing_certificate():
            key = x509.load_der_x509_certificate(certificate).public_key()
    except (ConfigurationError, ValueError):
        raise UpdateError("the connection string has no valid authority", remedy=_NEW_STRING) from None
    if not isinstance(key, Ed25519PublicKey):
        raise UpdateError("the connection string has no valid authority", remedy=_NEW_STRING)
    return key.public_bytes_raw()


def open_update_untrusted(string: ConnectionString, document: bytes) -> Update:
    """Decrypt an update, and verify that the authority of a connection string has made it for this side.

    The caller compares sequence and times, and asks `Update.is_for`.

    Raises:
        UpdateError: it is not such an update, or the connection string has no `UpdateKey` or no valid authority. The
            message contains no part of a document that this authority has not signed.
    """
    from cryptography.exceptions import InvalidSignature, InvalidTag
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    if string.update_key is None:
        raise UpdateError("the connection string has no UpdateKey, so updates cannot be read", remedy=_NEW_STRING)
    if not _NONCE + _TAG + _SIGNATURE < len(document) <= MAX_UPDATE:
        raise UpdateError("this is not an update: its size is wrong")
    key = base64.b64decode(string.update_key.reveal())
    nonce, sealed = document[:_NONCE], document[_NONCE:]
    try:
        content = ChaCha20Poly1305(key).decrypt(nonce, sealed, _binding(string.entity_path, string.role))
    except InvalidTag:
        raise UpdateError("this is not an update for this hybrid connection and side") from None
    signature, body = content[:_SIGNATURE], content[_SIGNATURE:]
    try:
        Ed25519PublicKey.from_public_bytes(authority_key_of(string)).verify(signature, _CONTEXT + body)
    except InvalidSignature:
        raise UpdateError("the update was not signed by the authority of this hybrid connection") from None
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise UpdateError("the content of the update is damaged") from None
    if not isinstance(value, dict) or value.get("version") != _VERSION:
        raise UpdateError("the update was made by another version of hybridrelay", remedy="upgrade this program")
    try:
        update = _of_json(value)
    except (ValueError, TypeError, KeyError) as exc:
        raise UpdateError(f"the content of the update cannot be used: {_describe(exc)}") from None
    if (update.connection, update.role) != (string.entity_path, string.role):
        raise UpdateError("the update is for another hybrid connection or side")
    return update


def _describe(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


def _of_json(value: Mapping[str, Any]) -> Update:
    """Raises ValueError, TypeError or KeyError."""
    endpoints, pins, target = content_of_json_untrusted(value)
    return Update(
        connection=text_in(value, "connection"),
        role=Role(text_in(value, "role")),
        sequence=value["sequence"],
        not_before=value["notBefore"],
        not_after=value["notAfter"],
        serial=text_in(value, "serial") if "serial" in value else "",
        excluded=texts_in(value, "excluded") if "excluded" in value else (),
        endpoints=endpoints,
        pins=pins,
        target=target,
    )
