"""Encoding responses with h11, which checks every header field and frames the body. No I/O."""

from __future__ import annotations

import http
import re

import h11

from .response import Fields, has_no_body

__all__ = ["ResponseEncoder", "encode_switch"]

_FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class ResponseEncoder:
    """Encodes the final response to one request.

    Args:
        connection: h11's connection, after it has parsed the request, or as much of it as could be parsed.
    """

    def __init__(self, connection: h11.Connection) -> None:
        self._connection = connection

    def encode_head(self, status: int, headers: Fields, *, length: int | None, close: bool) -> bytes:
        """Encode the head of a final response.

        Args:
            status: 200 or greater.
            headers: the header fields, without those that concern the framing.
            length: the length of the body (bytes), even if the body is not sent because the method is HEAD; None if
                it is unknown.
            close: whether the connection is closed after the response.

        Raises:
            h11.LocalProtocolError: a header field is malformed.
        """
        fields = [*headers]
        if length is not None and not has_no_body(status):
            fields.append(("Content-Length", str(length)))
        if close:
            fields.append(("Connection", "close"))
        return self._connection.send(
            h11.Response(status_code=status, reason=_phrase(status), headers=[_encode(*one) for one in fields])
        )

    def encode_data(self, data: bytes) -> bytes:
        """Encode a piece of the body. Returns b"" if the response has no body.

        Raises:
            h11.LocalProtocolError: the body becomes longer than its head says.
        """
        return self._connection.send(h11.Data(data=data))

    def encode_end(self) -> bytes:
        """Encode the end of the body.

        Raises:
            h11.LocalProtocolError: the body is shorter than its head says.
        """
        return self._connection.send(h11.EndOfMessage())

    def encode_continue(self) -> bytes:
        """Encode "100 Continue", which asks the client to send its body."""
        return self._connection.send(h11.InformationalResponse(status_code=100, reason=b"Continue", headers=[]))


def encode_switch(headers: Fields) -> bytes:
    """Encode "101 Switching Protocols". This does not use h11, which would take ten times as long and is not needed
    afterwards.

    Raises:
        ValueError: a header field is malformed.
    """
    lines = [b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade"]
    for name, value in headers:
        line = f"{name}: {value}".encode("ascii")
        if not _FIELD.fullmatch(line):
            raise ValueError(f"the header field {name!r} is malformed")
        lines.append(line)
    return b"\r\n".join([*lines, b"", b""])


def _encode(name: str, value: str) -> tuple[bytes, bytes]:
    try:
        return name.encode("ascii"), value.encode("ascii")
    except UnicodeEncodeError as exc:
        raise h11.LocalProtocolError(f"the header field {name!r} is not ASCII") from exc


def _phrase(status: int) -> bytes:
    try:
        return http.HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""
