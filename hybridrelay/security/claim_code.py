"""Claim codes: one line of text with which a machine gets its connection string from a relay. No I/O.

A code has five parts::

    hrc1.relay.example.com.mfrg-gzdf-....krug-kidr-....q7
    |    |                 |             |             check characters
    |    |                 |             the secret: 20 random bytes
    |    |                 the first 20 bytes of the SHA-256 of the relay's public key, or ``ca``
    |    the relay: host, or host/ports, such as relay.example.com/http=8080,probe=off
    version

People type codes, so the binary parts are Base32 (RFC 4648) in groups of four, and the case of letters, hyphens in
these parts, white space, and a pair of quotes around the code do not matter. Nothing else is tolerated. The two check
characters detect every wrong character, every exchange of two characters before them, and any other mistake with a
probability of 99.9 %. They are the value at 10 of the polynomial whose coefficients are the ASCII codes of the
characters before them, without the hyphens of groups, modulo 1021 (a prime, of which 10 is a primitive root), as two
digits of base 32.

``ca`` means that the relay is recognized by a certificate from a certificate authority.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping

import attrs

from .._text_files import strip_value
from .._value import Value
from ..errors import ClaimError
from .endpoints import Endpoint, format_ports, parse_ports_untrusted
from .names import bracketed, check_host
from .pins import SHORT_PIN_SIZE, short_pin, short_pin_digest
from .secret import Secret

__all__ = ["MAX_CLAIM_CODE", "ClaimCode", "parse_claim_code_untrusted"]

#: The maximum length of a code, in characters. Ordinary ones have 110.
MAX_CLAIM_CODE = 1000
SECRET_SIZE = 20

_VERSION = "hrc1"
_BY_AUTHORITY = "ca"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PRIME, _ROOT = 1021, 10
_GROUP = 4
#: 20 bytes are 32 characters, without padding.
_CHARACTERS = 32
_BASE32 = re.compile(f"[{_ALPHABET}]{{{_CHARACTERS}}}")
_REMEDY = "compare it with what 'claims create' has shown, or ask the administrator for a new one"


def _check_secret(instance: object, attribute: object, value: Secret) -> None:
    if not _BASE32.fullmatch(value.reveal()):
        raise ValueError("the secret of a claim has 32 characters of Base32")


@attrs.frozen
class ClaimCode(Value):
    """A code. Its `repr` does not show the secret; `format` converts it to text."""

    #: The relay that holds the claim.
    endpoint: Endpoint
    #: The relay's short pin (`short_pin`); empty if the relay is recognized by a certificate authority.
    pin: str = attrs.field()
    #: 20 bytes as Base32 in lower case, without hyphens.
    secret: Secret = attrs.field(validator=_check_secret)

    @pin.validator
    def _check_pin(self, _attribute: object, value: str) -> None:
        if value:
            short_pin_digest(value)

    @classmethod
    def generate(cls, endpoint: Endpoint, pin: str | None) -> ClaimCode:
        """Make a code with a new secret. `pin` is the relay's pin; None means that it has a certificate from a CA."""
        text = base64.b32encode(secrets.token_bytes(SECRET_SIZE)).decode("ascii").lower()
        return cls(endpoint, "" if pin is None else short_pin(pin), Secret(text))

    def secret_bytes(self) -> bytes:
        """Return the 20 bytes of the secret."""
        return base64.b32decode(self.secret.reveal().upper())

    def format(self) -> Secret:
        """Return the text of the code, for `parse_claim_code_untrusted`."""
        relay = bracketed(self.endpoint.host)
        if self.endpoint.ports:
            relay += f"/{format_ports(self.endpoint.ports)}"
        pin = _BY_AUTHORITY
        if self.pin:
            pin = base64.b32encode(short_pin_digest(self.pin)).decode("ascii").lower()
        plain = f"{_VERSION}.{relay.lower()}.{pin}.{self.secret.reveal()}"
        shown = pin if pin == _BY_AUTHORITY else _grouped(pin)
        return Secret(
            f"{_VERSION}.{relay.lower()}.{shown}.{_grouped(self.secret.reveal())}.{_check_characters(plain)}"
        )


def _grouped(text: str) -> str:
    return "-".join(text[begin : begin + _GROUP] for begin in range(0, len(text), _GROUP))


def _check_characters(text: str) -> str:
    value = 0
    for character in text:
        value = (value * _ROOT + ord(character)) % _PRIME
    return _ALPHABET[value // 32] + _ALPHABET[value % 32]


def parse_claim_code_untrusted(text: str) -> ClaimCode:
    """Parse a code.

    Raises:
        ClaimError: it is not a code, or was mistyped. The message does not repeat it.
    """
    if len(text) > MAX_CLAIM_CODE:
        raise _error(f"it is longer than {MAX_CLAIM_CODE} characters")
    plain = "".join(strip_value(text).split()).lower()
    if not plain:
        raise _error("it is empty")
    if not plain.isascii() or not plain.isprintable():
        raise _error("it contains a character that does not occur in codes")
    if not plain.startswith(f"{_VERSION}."):
        raise _error(f"it does not begin with {_VERSION}.")
    parts = plain.removeprefix(f"{_VERSION}.").rsplit(".", 3)
    if len(parts) != 4:
        raise _error("a part is missing: it has five parts, separated by dots")
    relay, pin, secret, check = parts
    pin = pin if pin == _BY_AUTHORITY else _base32(pin, "the third part (the relay's key)")
    secret = _base32(secret, "the fourth part (the secret)")
    if check != _check_characters(f"{_VERSION}.{relay}.{pin}.{secret}"):
        raise _error("a character is wrong, or is missing: its check characters do not match")
    try:
        endpoint = _endpoint(relay)
    except ValueError as exc:
        raise _error(f"the name of the relay is wrong: {exc}") from None
    return ClaimCode(endpoint, "" if pin == _BY_AUTHORITY else short_pin(_decoded(pin)), Secret(secret))


def _decoded(text: str) -> bytes:
    digest = base64.b32decode(text.upper())
    assert len(digest) == SHORT_PIN_SIZE
    return digest


def _base32(text: str, what: str) -> str:
    plain = text.replace("-", "")
    if wrong := sorted(set(plain) & set("0189")):
        raise _error(
            f"{what} contains {wrong[0]}, which does not occur there: it may be one of the letters o, l, b, g"
        )
    if len(plain) != _CHARACTERS:
        raise _error(f"{what} has {len(plain)} characters instead of {_CHARACTERS}")
    if not _BASE32.fullmatch(plain):
        raise _error(f"{what} contains a character that does not occur there")
    return plain


def _endpoint(text: str) -> Endpoint:
    host, slash, ports_text = text.partition("/")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    elif "[" in host or ":" in host:
        raise ValueError("write an IPv6 address in brackets; ports follow a slash")
    ports: Mapping[str, int | None] = parse_ports_untrusted(ports_text) if slash else {}
    return Endpoint(check_host(host), ports)


def _error(problem: str) -> ClaimError:
    return ClaimError(f"this is not a valid claim code: {problem}", remedy=_REMEDY)
