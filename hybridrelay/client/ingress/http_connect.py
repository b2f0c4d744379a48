"""HTTP CONNECT for applications (RFC 9110, section 9.3.6), with Basic authentication (RFC 7617) if a user is
required. Pure.

The reply to a request that cannot be carried out says why: by its status, by a line of text, and if it is a valid
CONNECT request of an accepted user, by Proxy-Status (RFC 9209). One request is served on each connection.
"""

from __future__ import annotations

import base64
import binascii
import http
from typing import Final

from ...http import Limits, RequestError
from ...http.head import HeadReader
from ...http.target import Form
from ...protocol.reasons import Reason
from .handshake import CheckUser, FrontRefusal, Step, cause_of, wanted_host

__all__ = ["HttpConnectHandshake"]

#: Requests of a proxy's users are short. Applications send few fields with CONNECT.
_LIMITS: Final = Limits(max_target_bytes=2048, max_head_bytes=8192, max_fields=64)
_REALM: Final = "hybridrelay"
_NO_CONNECT: Final = (
    "this proxy serves CONNECT only: let the application use a tunnel for http:// as well (curl: --proxytunnel)"
)


class HttpConnectHandshake:
    """See `FrontHandshake`.

    Args:
        check_user: checks user name and password; None if no user is required.
    """

    def __init__(self, check_user: CheckUser | None = None) -> None:
        self._check_user = check_user
        self._reader = HeadReader(_LIMITS)

    def receive_untrusted(self, data: bytes) -> Step:
        """See `FrontHandshake.receive_untrusted`."""
        try:
            if not self._reader.receive_untrusted(data):
                return Step(len(data))
            head, rest = self._reader.take()
        except RequestError as exc:
            raise FrontRefusal(exc.failure.detail, _response(exc.failure.status, exc.failure.detail)) from None
        if self._check_user is not None and not _is_accepted(
            self._check_user, head.headers.all("proxy-authorization")
        ):
            text = "this proxy requires a user name and a password"
            challenge = f'Proxy-Authenticate: Basic realm="{_REALM}", charset="UTF-8"'
            raise FrontRefusal("the user name or password is missing or wrong", _response(407, text, challenge))
        if head.target.form is not Form.AUTHORITY:
            raise FrontRefusal("the request is not CONNECT", _response(405, _NO_CONNECT, "Allow: CONNECT"))
        if not head.framing.is_empty:
            text = "a CONNECT request must not have content"
            raise FrontRefusal(text, _response(400, text))
        authority = head.target.authority
        wanted = None if authority is None else wanted_host(authority.host, authority.port or 0)
        if wanted is None:
            text = "the request target is not a valid host and port"
            raise FrontRefusal(text, _response(400, text))
        return Step(len(data) - len(rest), wanted=wanted)

    def opened(self) -> bytes:
        """See `FrontHandshake.opened`."""
        return b"HTTP/1.1 200 Connection established\r\n\r\n"

    def not_published(self) -> bytes:
        """See `FrontHandshake.not_published`."""
        text = "no hybrid connection of this forward has this host and port as its local name"
        return _response(403, text, 'Proxy-Status: hybridrelay; error=destination_not_found; details="not-published"')

    def failed(self, reason: Reason, text: str) -> bytes:
        """See `FrontHandshake.failed`."""
        cause = cause_of(reason)
        status = f'Proxy-Status: hybridrelay; error={cause.error}; details="{reason.slug}"'
        return _response(cause.status, text, status)


def _is_accepted(check_user: CheckUser, values: list[str]) -> bool:
    if len(values) != 1:
        return False
    scheme, _, encoded = values[0].partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return False
    return bool(colon) and check_user(name, password)


def _response(status: int, text: str, *fields: str) -> bytes:
    """Return a response with one line of text, after which the connection is closed."""
    body = f"{text}\n".encode("ascii", "backslashreplace")
    head = [
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *fields,
    ]
    return "\r\n".join(head).encode("ascii") + b"\r\n\r\n" + body
