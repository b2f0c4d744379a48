"""The responses that a handler can return: with a complete body, with a streamed body, or a switch of protocols.

The server, and not the handler, frames the body: a complete body gets Content-Length. A streamed body is chunked, or
ends with the connection if the client speaks HTTP/1.0. Responses to HEAD and with status 204 or 304 have no body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs

from .._value import Value

__all__ = ["Fields", "Response", "Send", "StreamedResponse", "SwitchProtocols", "has_no_body", "text_response"]

#: Header fields in the order in which they are sent. Printable ASCII, without line breaks.
Fields = Sequence[tuple[str, str]]
#: Sends a piece of a streamed body and waits until the operating system has accepted it. Raises `ClientGone` if the
#: connection is lost or the client does not read. If cancelled, it aborts the response, because a part may be
#: missing.
Send = Callable[[bytes], Awaitable[None]]

#: Only the server sets these: if the length of a response is stated twice, the client or a proxy may take a part of
#: its body for another response.
_RESERVED = frozenset({"connection", "content-length", "date", "keep-alive", "trailer", "transfer-encoding"})


def has_no_body(status: int) -> bool:
    """Return whether responses with this status never have a body (RFC 9110 section 6.4.1)."""
    return status in {204, 304} or status < 200


def _check_status(_instance: object, _attribute: object, status: int) -> None:
    if not 200 <= status < 600:
        raise ValueError(f"{status} is not the status of a final response")


def _check_headers(_instance: object, _attribute: object, headers: Fields) -> None:
    for name, _ in headers:
        if name.lower() in _RESERVED:
            raise ValueError(f"the header field {name} is set by the server")


@attrs.frozen
class Response(Value):
    """A response with a complete body.

    Raises:
        ValueError: the status is invalid, a header field is one that the server sets, or the status allows no body.
    """

    status: int = attrs.field(validator=_check_status)
    body: bytes = attrs.field(default=b"", repr=lambda body: f"<{len(body)} bytes>")
    headers: Fields = attrs.field(default=(), validator=_check_headers)
    #: Whether to close the connection afterwards.
    close: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.body and has_no_body(self.status):
            raise ValueError(f"a response with status {self.status} has no body")


@attrs.frozen
class StreamedResponse(Value):
    """A response whose body is produced while it is sent.

    After the head was sent, `write` is called with a `Send`; the body ends when it returns. It is not called for
    HEAD, 204 and 304. An exception from it aborts the connection, so that the client does not mistake the part that
    it has received for the whole body.

    Raises:
        ValueError: see `Response`.
    """

    status: int = attrs.field(validator=_check_status)
    write: Callable[[Send], Awaitable[None]]
    headers: Fields = attrs.field(default=(), validator=_check_headers)
    #: The length of the body (bytes) if it is known in advance. It is then sent with Content-Length, not chunked.
    length: int | None = attrs.field(default=None, kw_only=True)
    #: Whether to close the connection afterwards.
    close: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class SwitchProtocols(Value):
    """Status 101: another protocol, which the client has requested in ``Upgrade``, takes over the connection.

    `serve_connection` sends it and returns an `Upgraded` with the stream. Only for a GET request without a body.
    """

    #: ``Upgrade`` and further fields of that protocol; ``Connection: Upgrade`` is added.
    headers: Fields = attrs.field(validator=_check_headers)


def text_response(status: int, text: str, headers: Fields = ()) -> Response:
    """Return a response with one line of text, which caches must not store."""
    fields = (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"), *headers)
    return Response(status, f"{text}\n".encode(), fields)
