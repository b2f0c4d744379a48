"""The messages of a stream of `Kind.ISSUE`, over which an application gets an identity. SPEC.md, section 8.

The client sends one request and ends its direction. The connector sends one answer and ends the other one. Both are
JSON (UTF-8). Names that a receiver does not know are ignored.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, TypeAlias

import attrs

from .._value import Value
from .reasons import Reason

__all__ = [
    "MAX_ISSUE_ANSWER",
    "MAX_ISSUE_REQUEST",
    "IssueAnswer",
    "IssueRefused",
    "IssueRequest",
    "Issued",
    "parse_issue_answer_untrusted",
    "parse_issue_request_untrusted",
]

#: The maximum sizes of the messages (bytes).
MAX_ISSUE_REQUEST = 4096
MAX_ISSUE_ANSWER = 16 * 1024
_VERSION = 1
_MAX_DETAIL = 300


@attrs.frozen
class IssueRequest(Value):
    """Asks for a certificate."""

    #: A certification request (PKCS #10, DER).
    request: bytes = attrs.field(repr=False)

    def encode(self) -> bytes:
        """Return the message."""
        return _encode({"request": _to_text(self.request)})


@attrs.frozen
class Issued(Value):
    """The answer with a certificate."""

    #: DER.
    certificate: bytes = attrs.field(repr=False)
    #: The certificate of the issuer that has signed it (DER).
    issuer: bytes = attrs.field(repr=False)

    def encode(self) -> bytes:
        """Return the message."""
        return _encode({"certificate": _to_text(self.certificate), "issuer": _to_text(self.issuer)})


@attrs.frozen
class IssueRefused(Value):
    """The answer that no certificate is issued."""

    reason: Reason
    #: A sentence for people.
    detail: str = ""

    def encode(self) -> bytes:
        """Return the message."""
        return _encode({"refused": self.reason.slug, "detail": self.detail[:_MAX_DETAIL]})


IssueAnswer: TypeAlias = Issued | IssueRefused


def parse_issue_request_untrusted(data: bytes) -> IssueRequest:
    """Parse a request.

    Raises:
        ValueError: it is too long, or malformed. The message does not repeat it.
    """
    content = _decode(data, MAX_ISSUE_REQUEST)
    return IssueRequest(_from_text(content.get("request")))


def parse_issue_answer_untrusted(data: bytes) -> IssueAnswer:
    """Parse an answer. The detail of a refusal has at most 300 printable characters.

    Raises:
        ValueError: it is too long, or malformed. The message does not repeat it.
    """
    content = _decode(data, MAX_ISSUE_ANSWER)
    if "refused" in content:
        reason, detail = content["refused"], content.get("detail", "")
        if not isinstance(reason, str) or not isinstance(detail, str):
            raise ValueError("a malformed refusal")
        shown = "".join(character if character.isprintable() else "?" for character in detail[:_MAX_DETAIL])
        return IssueRefused(Reason.from_name(reason), shown)
    return Issued(_from_text(content.get("certificate")), _from_text(content.get("issuer")))


def _encode(content: dict[str, str]) -> bytes:
    return json.dumps({"version": _VERSION, **content}, separators=(",", ":")).encode()


def _decode(data: bytes, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise ValueError(f"more than {limit} bytes")
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    version = content.get("version") if isinstance(content, dict) else None
    if isinstance(version, bool) or version != _VERSION:
        raise ValueError("a message of another version")
    assert isinstance(content, dict)
    return content


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_text(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("a part is missing")
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeError):
        raise ValueError("a part is not Base64") from None
