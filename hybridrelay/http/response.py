"""Responses: a body that is known, a body that is streamed, or a change of protocol.

How a body is framed is the server's business, not the handler's: a known body gets Content-Length; a streamed one is
chunked, or ends with the connection for an HTTP/1.0 client; HEAD, 204 and 304 have none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs

__all__ = ["Fields", "Response", "Send", "StreamedResponse", "SwitchProtocols", "has_no_body", "text_response"]

#: Header fields in the order in which they are sent. Printable ASCII, without line breaks.
Fields = Sequence[tuple[str, str]]
#: Sends a piece of a streamed body and waits until the system has taken it. Raises `ClientGone` when the client has
#: left or does not read.
Send = Callable[[bytes], Awaitable[None]]

#: The server sets these itself: two opinions about where a message ends are an attack.
_RESERVED = frozenset({"connection", "content-length", "date", "keep-alive", "trailer", "transfer-encoding"})


def has_no_body(status: int) -> bool:
    """Whether responses with this status never have a body (RFC 9110 section 6.4.1)."""
    return status in {204, 304} or status < 200


def _check_status(_instance: object, _attribute: object, status: int) -> None:
    if not 200 <= status < 600:
        raise ValueError(f"{status} is not the status of a final response")


def _check_headers(_instance: object, _attribute: object, headers: Fields) -> None:
    for name, _ in headers:
        if name.lower() in _RESERVED:
            raise ValueError(f"the header field {name} is set by the server")


@attrs.frozen
class Response:
    """A response whose body is known.

    Raises:
        ValueError: a status that is none, a header field that the server sets, or a body where there can be none.
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
class StreamedResponse:
    """A response whose body is made while it is sent.

    `write` is called with a `Send` after the head was sent, and the body ends when it returns. It is not called for
    HEAD, 204 and 304. Whatever it raises aborts the connection, so that the client does not take the part that it has
    received for the whole.

    Raises:
        ValueError: as `Response`.
    """

    status: int = attrs.field(validator=_check_status)
    write: Callable[[Send], Awaitable[None]]
    headers: Fields = attrs.field(default=(), validator=_check_headers)
    #: The length of the body (bytes) where it is known. The body is then sent as it is and has to have that length.
    length: int | None = attrs.field(default=None, kw_only=True)
    #: Whether to close the connection afterwards.
    close: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class SwitchProtocols:
    """101: the connection is taken over by another protocol, which the client has asked for in ``Upgrade``.

    `serve_connection` sends it and returns an `Upgraded` with the stream. Only for a GET request without a body.
    """

    #: ``Upgrade`` and whatever else the protocol wants; ``Connection: Upgrade`` is added.
    headers: Fields = attrs.field(validator=_check_headers)


def text_response(status: int, text: str, headers: Fields = ()) -> Response:
    """A line of text that is not to be cached."""
    fields = (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"), *headers)
    return Response(status, f"{text}\n".encode(), fields)
