"""Shared access signatures: tokens in the format of Azure Relay, so that tokens made by its SDKs are valid here.

A token proves possession of a rule's key, for its audience (the URL of a hybrid connection), until it expires::

    SharedAccessSignature sr=<encoded audience>&sig=<encoded signature>&se=<seconds since 1970>&skn=<rule>

The signature is HMAC-SHA256 over ``sr`` exactly as it appears in the token, a line feed, and ``se``. Its key is the
UTF-8 text of the shared access key, not the bytes that this text decodes to. URL encoders differ (``%2F`` or ``%2f``,
``/`` encoded or not), so the signed text is never decoded and encoded again.

Pure: the time is an argument.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable
from urllib.parse import quote, unquote

import attrs

from .._value import Value
from ..errors import AuthorizationError
from ..protocol.limits import MAX_TOKEN
from ..protocol.reasons import Reason
from .names import bracketed, normal_host, without_zone
from .rules import MAX_RULE_NAME, KeySlot, Right, Rule
from .secret import Secret

#: How far the clocks of the relay and of the program that made a token may differ (seconds).
CLOCK_SKEW_SECONDS = 300
_PREFIX = "sharedaccesssignature "
_FIELDS = frozenset({"sr", "sig", "se", "skn"})
_SCHEMES = frozenset({"http", "https", "sb", "hr", "ws", "wss"})
_AUDIENCE = re.compile(
    r"(?P<scheme>[A-Za-z]{2,5})://(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[^/:\[\]@?#]{1,255}))(?::[0-9]{0,5})?"
    r"(?P<path>/.*)?",
    re.DOTALL,
)


@attrs.frozen
class SasToken(Value):
    """A well-formed token, before it was verified."""

    #: ``sr`` exactly as in the token, which is what was signed.
    signed_audience: str
    #: The host of the audience in lower case, without port, brackets or final dot.
    host: str
    #: The segments of the audience's path; empty for the whole relay.
    path: tuple[str, ...]
    signature: bytes = attrs.field(repr=False)
    #: ``se`` exactly as in the token.
    signed_expiry: str
    #: Seconds since 1970.
    expires_at: int
    rule_name: str


@attrs.frozen
class Authorization(Value):
    """What a verified token authorizes, and with which key. It ends when the key is revoked."""

    rule_name: str
    slot: KeySlot
    rights: frozenset[Right]
    #: Seconds since 1970.
    expires_at: int


def audience_for(host: str, entity: str) -> str:
    """Return the audience of a hybrid connection, as Azure's SDKs write it.

    The zone of an IPv6 address is left out, because it has a different name at the relay.
    """
    return f"http://{bracketed(without_zone(host).lower())}/{entity}"


def make_token(audience: str, rule_name: str, key: Secret, expires_at: float) -> str:
    """Make a token.

    Args:
        audience: a URL, from `audience_for`.
        rule_name: the name of the rule to which the key belongs.
        key: the shared access key.
        expires_at: seconds since 1970.

    Returns:
        The token. It is a secret, because anyone who has it can use it until it expires.
    """
    signed_audience = quote(audience, safe="")
    expiry = str(int(expires_at))
    signature = base64.b64encode(_sign(signed_audience, expiry, key)).decode("ascii")
    return (
        f"SharedAccessSignature sr={signed_audience}&sig={quote(signature, safe='')}"
        f"&se={expiry}&skn={quote(rule_name, safe='')}"
    )


def parse_token_untrusted(text: str) -> SasToken:
    """Parse a token without verifying anything.

    Raises:
        AuthorizationError: it is malformed (`Reason.TOKEN_MALFORMED`). The message names the part, and does not
            quote the token.
    """
    if len(text) > MAX_TOKEN:
        raise _malformed("it is too long")
    if not text.isascii():
        raise _malformed("it is not ASCII")
    if text[: len(_PREFIX)].lower() != _PREFIX:
        raise _malformed("it does not begin with 'SharedAccessSignature '")
    fields: dict[str, str] = {}
    for number, part in enumerate(text[len(_PREFIX) :].split("&"), 1):
        name, equals, value = part.partition("=")
        name = name.lower()
        if not equals or name not in _FIELDS:
            raise _malformed(f"its field number {number} is unknown")
        if name in fields:
            raise _malformed(f"{name} appears twice")
        fields[name] = value
    for name in ("sr", "sig", "se", "skn"):
        if not fields.get(name):
            raise _malformed(f"{name} is missing")
    host, path = _parse_audience(fields["sr"])
    return SasToken(
        signed_audience=fields["sr"],
        host=host,
        path=path,
        signature=_parse_signature(fields["sig"]),
        signed_expiry=fields["se"],
        expires_at=_parse_expiry(fields["se"]),
        rule_name=_parse_rule_name(fields["skn"]),
    )


def verify_token(
    token: SasToken | str,
    *,
    hosts: Collection[str],
    entity: str,
    right: Right,
    rules: Iterable[Rule],
    now: float,
) -> Authorization:
    """Verify a token, and check that it gives `right` on a hybrid connection.

    Args:
        token: the token as it was received.
        hosts: all names of this relay; neither case nor the zone of an IPv6 address matters.
        entity: the name of the hybrid connection.
        right: the right that is needed.
        rules: the rules of the hybrid connection.
        now: seconds since 1970.

    Raises:
        AuthorizationError: the token does not give the right. `reason` is TOKEN_MALFORMED, WRONG_AUDIENCE,
            UNKNOWN_RULE, WRONG_KEY, KEY_REVOKED (no valid key of the rule fits, and one is revoked), TOKEN_EXPIRED or
            RIGHT_MISSING, which are checked in this order.
    """
    if isinstance(token, str):
        token = parse_token_untrusted(token)
    if token.host not in {normal_host(without_zone(host)) for host in hosts}:
        raise AuthorizationError(
            f"the token was made for the host {token.host!r}, which is not a name of this relay",
            reason=Reason.WRONG_AUDIENCE,
            remedy="use the host name in the connection string's Endpoint, or add this name to the relay",
        )
    if token.path != tuple(entity.split("/")):
        # Also if it is for something above the hybrid connection, such as the whole relay, to which no rule belongs.
        raise AuthorizationError("the token was not made for this hybrid connection", reason=Reason.WRONG_AUDIENCE)
    rule = next((one for one in rules if one.name == token.rule_name), None)
    if rule is None:
        raise AuthorizationError("no rule has the name in the token", reason=Reason.UNKNOWN_RULE)
    slot = _matching_slot(token, rule)
    if slot is None:
        raise _not_signed(rule)
    if now >= token.expires_at + CLOCK_SKEW_SECONDS:
        raise AuthorizationError(
            f"the token expired {now - token.expires_at:.0f} seconds ago",
            reason=Reason.TOKEN_EXPIRED,
            remedy="compare the clocks of this machine and of the relay",
        )
    if not rule.allows(right):
        raise AuthorizationError(f"the rule does not have the right {right}", reason=Reason.RIGHT_MISSING)
    return Authorization(rule.name, slot, rule.rights, token.expires_at)


def _not_signed(rule: Rule) -> AuthorizationError:
    revoked = [slot for slot in KeySlot if rule.key(slot) is None]
    if not revoked:
        return AuthorizationError("the token was not signed with a key of its rule", reason=Reason.WRONG_KEY)
    # Revoked keys are not stored, so a revoked key cannot be distinguished from a wrong one. A revoked one is more
    # likely.
    return AuthorizationError(
        f"the token was not signed with a valid key of its rule; revoked: {', '.join(revoked)}",
        reason=Reason.KEY_REVOKED,
    )


def _matching_slot(token: SasToken, rule: Rule) -> KeySlot | None:
    for slot in KeySlot:
        key = rule.key(slot)
        if key is not None and hmac.compare_digest(
            _sign(token.signed_audience, token.signed_expiry, key), token.signature
        ):
            return slot
    return None


def _sign(signed_audience: str, expiry: str, key: Secret) -> bytes:
    message = f"{signed_audience}\n{expiry}".encode()
    return hmac.new(key.reveal().encode("utf-8"), message, hashlib.sha256).digest()


def _parse_audience(encoded: str) -> tuple[str, tuple[str, ...]]:
    # Unlike `unquote_plus`, `unquote` keeps "+", which only some encoders use for a space.
    match = _AUDIENCE.fullmatch(unquote(encoded))
    if match is None or match["scheme"].lower() not in _SCHEMES:
        raise _malformed("sr is not a URL")
    # Some SDKs write two slashes after the host, or a slash at the end, so empty segments are ignored.
    path = tuple(segment for segment in (match["path"] or "").split("/") if segment)
    host = match["v6"] or match["name"]
    if not host.isascii():
        # Checked before lower(), which turns some letters of other scripts into ASCII.
        raise _malformed("the host in sr is not ASCII")
    return normal_host(host), path


def _parse_signature(encoded: str) -> bytes:
    try:
        signature = base64.b64decode(unquote(encoded).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeError):
        raise _malformed("sig is not Base64") from None
    if len(signature) != hashlib.sha256().digest_size:
        raise _malformed("sig has the wrong length")
    return signature


def _parse_expiry(text: str) -> int:
    # Twelve digits are enough until the year 33658. The length is checked before the conversion.
    if not (len(text) <= 12 and text.isascii() and text.isdecimal()):
        raise _malformed("se is not a number of seconds")
    return int(text)


def _parse_rule_name(encoded: str) -> str:
    name = unquote(encoded)
    if len(name) > MAX_RULE_NAME:
        raise _malformed("skn is too long")
    return name


def _malformed(what: str) -> AuthorizationError:
    return AuthorizationError(f"the token is malformed: {what}", reason=Reason.TOKEN_MALFORMED)
