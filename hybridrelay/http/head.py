"""The head of a request: collected within limits, checked for ambiguity, parsed by h11. No I/O.

Request smuggling is possible if a proxy and the server behind it disagree about where a message ends. h11 accepts
some ambiguous requests, so this module rejects them before h11 sees them:

- line feeds without a carriage return, carriage returns without a line feed, and NUL, anywhere in the head;
- continuation lines (obs-fold, RFC 9112 section 5.2);
- more than one Content-Length, even with equal values, and lists in Content-Length;
- Content-Length together with Transfer-Encoding, and Transfer-Encoding in HTTP/1.0 (RFC 9112 section 6.1).

h11 itself rejects spaces before a colon, transfer codings other than ``chunked``, a missing or second Host, and
characters that are not allowed in methods, targets and names. In values, it accepts control characters other than
NUL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import attrs
import h11

from .._value import Value
from .failure import Failure, RequestError
from .limits import Limits
from .target import Authority, Target, parse_authority_untrusted, parse_target_untrusted

__all__ = ["Framing", "Head", "HeadReader", "Headers"]

_END = b"\r\n\r\n"
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r[^\n]|\n[ \t]|\x00")
_NOT_HTTP = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
_LENGTH_FIELD = re.compile(rb"\r\ncontent-length:([^\r]*)", re.IGNORECASE)
_ENCODING_FIELD = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_LENGTH = re.compile(rb"[ \t]*[0-9]+[ \t]*")


class Headers:
    """The header fields of a request. Names are in lower case."""

    __slots__ = ("_values",)

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in fields:
            self._values.setdefault(name, []).append(value)

    def __repr__(self) -> str:
        # Without the values, because some of them are secrets.
        return f"Headers({list(self._values)})"

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, values in self._values.items():
            for value in values:
                yield name, value

    def all(self, name: str) -> list[str]:
        """Return the values of all fields with this name."""
        return self._values.get(name, [])

    def get(self, name: str) -> str | None:
        """Return the value of the field with this name; None if there is no such field, or more than one."""
        values = self.all(name)
        return values[0] if len(values) == 1 else None

    def tokens(self, name: str) -> list[str]:
        """Return the comma-separated elements of all fields with this name, in lower case, without empty ones."""
        elements = (element.strip().lower() for value in self.all(name) for element in value.split(","))
        return [element for element in elements if element]


@attrs.frozen
class Framing(Value):
    """How the end of the body is found."""

    #: The length of the body (bytes); None if it is chunked.
    length: int | None

    @property
    def is_empty(self) -> bool:
        """Whether nothing follows the head."""
        return self.length == 0


@attrs.frozen
class Head(Value):
    """The head of a request."""

    method: str
    target: Target
    #: Whether the client speaks HTTP/1.1 or a later minor version.
    is_http11: bool
    headers: Headers
    #: The host that the request is for, from an absolute target or else from Host; None only in HTTP/1.0.
    authority: Authority | None
    framing: Framing
    #: Whether the client waits for "100 Continue" before it sends the body.
    expects_continue: bool
    #: Whether the client allows further requests on the connection.
    keep_alive: bool


class HeadReader:
    """Collects the head of one request.

    Pass received bytes to `receive_untrusted`. When that returns True, `take` returns the head and the bytes after
    it. After an exception, the reader can only be discarded.
    """

    __slots__ = ("_blank_line_skipped", "_buffer", "_checked", "_connection", "_end", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._checked = 0
        self._end = -1
        self._blank_line_skipped = False
        self._connection: h11.Connection | None = None

    @property
    def connection(self) -> h11.Connection:
        """The state of h11, for the response. It has parsed as much of the request as possible."""
        if self._connection is None:
            self._connection = h11.Connection(h11.SERVER)
        return self._connection

    @property
    def is_head_request(self) -> bool:
        """Whether the method is HEAD, so that the response has no body. False if this is not known yet."""
        return self._buffer.startswith(b"HEAD ")

    @property
    def is_empty(self) -> bool:
        """Whether no byte of a request has arrived yet."""
        return not self._buffer

    def receive_untrusted(self, data: bytes) -> bool:
        """Add received bytes; return whether the head is complete.

        Raises:
            RequestError: 400, 414 or 431. Raised as soon as the error is certain, even before the end of the head.
        """
        buffer = self._buffer
        buffer += data
        if not self._blank_line_skipped and buffer.startswith(b"\r\n"):
            # Old clients send a blank line after a body (RFC 9112 section 2.2).
            self._blank_line_skipped = True
            del buffer[:2]
        if not buffer or buffer == b"\r":
            return False
        if _NOT_HTTP.match(buffer):
            raise _bad("this is not an HTTP request")
        self._end = buffer.find(_END, max(0, self._checked - 3))
        end = len(buffer) if self._end < 0 else self._end + len(_END)
        if _AMBIGUOUS.search(buffer, max(0, self._checked - 1), end):
            raise _bad("the request head has ambiguous line breaks or control characters")
        self._checked = end
        line = buffer.find(b"\r\n", 0, self._limits.max_target_bytes + 2)
        if line < 0 and end > self._limits.max_target_bytes:
            raise RequestError(Failure(414, "the request target is too long", close=True))
        if end > self._limits.max_head_bytes:
            raise _too_large()
        return self._end >= 0

    def take(self) -> tuple[Head, bytes]:
        """Parse the head, which is complete.

        Returns:
            The head, and the bytes that were received after it.

        Raises:
            RequestError: 400, 417, 431, 501 or 505.
        """
        size = self._end + len(_END)
        rest = bytes(self._buffer[size:])
        del self._buffer[size:]
        return self._parse(bytes(self._buffer)), rest

    def _parse(self, data: bytes) -> Head:
        if data.count(b"\r\n") - 2 > self._limits.max_fields:
            raise _too_large()
        lengths: list[bytes] = _LENGTH_FIELD.findall(data)
        encoded = _ENCODING_FIELD.search(data) is not None
        if len(lengths) + encoded > 1:
            raise _bad("the request has two lengths")
        if lengths and not _LENGTH.fullmatch(lengths[0]):
            raise _bad("the request's length is malformed")
        connection = self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(data))
        connection.receive_data(data)
        try:
            request = connection.next_event()
        except h11.RemoteProtocolError as exc:
            status = exc.error_status_hint
            text = "the transfer coding is not known" if status == 501 else "this is not an HTTP request"
            raise RequestError(Failure(status, text, close=True)) from exc
        assert isinstance(request, h11.Request), request
        if not request.http_version.startswith(b"1."):
            raise RequestError(Failure(505, "this server speaks HTTP/1.1", close=True))
        is_http11 = request.http_version != b"1.0"
        if encoded and not is_http11:
            raise _bad("HTTP/1.0 has no transfer codings")
        headers = Headers((name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers)
        method = request.method.decode("ascii")
        target, authority = _authority(method, request.target.decode("ascii"), headers)
        expectations = headers.tokens("expect") if is_http11 else []
        if expectations not in ([], ["100-continue"]):
            raise RequestError(Failure(417, "this server supports only the expectation 100-continue", close=True))
        return Head(
            method=method,
            target=target,
            is_http11=is_http11,
            headers=headers,
            authority=authority,
            framing=Framing(None if encoded else int(lengths[0]) if lengths else 0),
            expects_continue=bool(expectations),
            keep_alive=is_http11 and "close" not in headers.tokens("connection"),
        )


def _authority(method: str, text: str, headers: Headers) -> tuple[Target, Authority | None]:
    target = parse_target_untrusted(method, text)
    host = headers.get("host")
    authority = None if host is None else parse_authority_untrusted(host)
    # RFC 9112 section 3.2.2: an absolute target replaces Host.
    return target, target.authority or authority


def _bad(detail: str) -> RequestError:
    return RequestError(Failure(400, detail, close=True))


def _too_large() -> RequestError:
    return RequestError(Failure(431, "the request head is too long", close=True))
