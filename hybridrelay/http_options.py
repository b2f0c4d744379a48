"""Options for the HTTP requests of transports: a path prefix, and additional header fields. Pure.

Content delivery networks and access proxies in front of a relay may serve it under a path prefix, and may require
header fields as credentials. These fields are secrets. None of these options comes from a connection string or a
peer.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from ._value import Value

__all__ = ["NO_HTTP_OPTIONS", "HttpOptions", "check_header", "check_path_prefix"]

_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_MAX_PREFIX: Final = 200
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
#: Visible ASCII characters, with spaces and tabs between them: no line breaks, and nothing that a proxy may interpret
#: differently.
_VALUE: Final = re.compile(r"[!-~](?:[ \t!-~]*[!-~])?")
_MAX_VALUE: Final = 7000
_MAX_HEADERS: Final = 32
#: The maximum size of all of them together (bytes). A relay, like many proxies, accepts heads of at most 8 KiB. The
#: host name, the path prefix and the fields of the handshake take up to 700 bytes of this.
_MAX_TOTAL: Final = 7168
#: Fields of the WebSocket handshake or of the connection (RFC 9110 section 7.6.1), which cannot be set.
_RESERVED: Final = frozenset(
    {
        "connection", "content-length", "expect", "host", "http2-settings", "keep-alive", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_RESERVED_PREFIXES: Final = ("sec-websocket-", "proxy-")


def check_path_prefix(prefix: str) -> str:
    """Return a valid path prefix, without a slash at the end.

    Raises:
        ValueError: it is not.
    """
    path = prefix.removesuffix("/")
    segments = path.split("/")
    if not _PREFIX.fullmatch(path) or len(path) > _MAX_PREFIX or "." in segments or ".." in segments:
        raise ValueError("expected a path such as /edge/relay, of letters, digits and the characters - . _ ~")
    return path


def check_header(name: str, value: str) -> tuple[str, str]:
    """Return the header field if it is valid.

    Raises:
        ValueError: it is not valid; the message does not repeat the value.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("the name of a header field is empty, too long, or has a character that is not allowed")
    if name.lower() in _RESERVED or name.lower().startswith(_RESERVED_PREFIXES):
        raise ValueError(f"the header field {name} belongs to the connection itself, and cannot be set")
    if len(value) > _MAX_VALUE or not _VALUE.fullmatch(value):
        raise ValueError(
            f"the value of the header field {name} is empty or too long, begins or ends with a blank, or has "
            "characters other than visible ASCII, spaces and tabs"
        )
    return name, value


def _check_prefix(instance: object, attribute: object, value: str) -> None:
    if value and check_path_prefix(value) != value:
        raise ValueError("the path prefix ends with a slash")


def _check_headers(instance: object, attribute: object, value: tuple[tuple[str, str], ...]) -> None:
    for name, text in value:
        check_header(name, text)
    if len({name.lower() for name, _ in value}) != len(value):
        raise ValueError("a header field is named twice")
    if len(value) > _MAX_HEADERS or sum(len(name) + len(text) + 4 for name, text in value) > _MAX_TOTAL:
        raise ValueError(f"there are more than {_MAX_HEADERS} header fields, or more than {_MAX_TOTAL} bytes of them")


@attrs.frozen
class HttpOptions(Value):
    """Options for the HTTP requests of transports.

    Raises:
        ValueError: a part is not valid. The message does not repeat the value of a header field.
    """

    #: The part before the transport's own path, such as ``/edge/relay``; empty if there is none.
    path_prefix: str = attrs.field(default="", validator=_check_prefix)
    #: Names and values. They are sent only inside TLS, and after the certificate was verified.
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), validator=_check_headers, repr=False)


NO_HTTP_OPTIONS: Final = HttpOptions()
