"""Request targets (RFC 9112 section 3.2) and the authorities in them (RFC 3986 section 3.2). No I/O.

The path is kept as it was sent: percent-encoded. Decoding before routing would turn ``a%2Fb`` into two segments.
"""

from __future__ import annotations

import enum
import ipaddress
import re
import urllib.parse

import attrs

from .._value import Value
from .failure import Failure, RequestError

__all__ = ["Authority", "Form", "Target", "decode_segment", "parse_authority_untrusted", "parse_target_untrusted"]


class Form(enum.Enum):
    """The four forms of a request target."""

    #: ``/path?query``
    ORIGIN = "origin"
    #: ``http://host/path?query``: what clients send to proxies, and what servers have to accept.
    ABSOLUTE = "absolute"
    #: ``host:port``, for CONNECT.
    AUTHORITY = "authority"
    #: ``*``, for OPTIONS: the server as a whole.
    ASTERISK = "asterisk"


@attrs.frozen
class Authority(Value):
    """Host and port."""

    #: The host in lower case; an IPv6 address without brackets. Empty if Host was empty.
    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


@attrs.frozen
class Target(Value):
    """The target of a request."""

    form: Form
    #: The path, percent-encoded. Begins with a slash in origin and absolute form, and is empty otherwise.
    path: str = ""
    #: The part after the question mark, percent-encoded; None if there is no question mark.
    query: str | None = attrs.field(default=None, repr=False)
    #: The authority, in absolute and authority form only.
    authority: Authority | None = None
    #: The scheme in lower case, in absolute form only.
    scheme: str | None = None


# RFC 3986 section 3.2.2, without percent-encoding: names in the DNS have none.
_REG_NAME = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=]*")
_IP_LITERAL = re.compile(r"\[([0-9A-Fa-f:.]+)\]")
_PORT = re.compile(r"[0-9]{0,5}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)", re.DOTALL)
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# "." and "..", even if percent-encoded. They are rejected, because a proxy in front may resolve them differently.
_DOT_SEGMENT = re.compile(r"/(?:\.|%2[Ee]){1,2}(?=/|\Z)")


def parse_target_untrusted(method: str, target: str) -> Target:
    """Parse a request target, of which h11 has checked that it consists of visible ASCII characters.

    Raises:
        RequestError: 400 for a target that is malformed or has a form that is not for this method.
    """
    if method == "CONNECT":
        authority = parse_authority_untrusted(target)
        if not authority.host or authority.port is None:
            raise _bad("the request target is not HOST:PORT")
        return Target(Form.AUTHORITY, authority=authority)
    if target == "*":
        if method != "OPTIONS":
            raise _bad("the request target * is for OPTIONS only")
        return Target(Form.ASTERISK)
    if "#" in target:
        raise _bad("the request target has a fragment")
    if target.startswith("/"):
        path, query = _split(target)
        return Target(Form.ORIGIN, path, query)
    absolute = _SCHEME.fullmatch(target)
    if absolute is None:
        raise _bad("the request target is neither a path nor a URL")
    scheme, rest = absolute.groups()
    end = re.search(r"[/?]|\Z", rest)
    assert end is not None
    authority = parse_authority_untrusted(rest[: end.start()])
    if not authority.host:
        raise _bad("the request target names no host")
    rest = rest[end.start() :]
    if not rest and method == "OPTIONS":
        return Target(Form.ASTERISK, authority=authority, scheme=scheme.lower())
    path, query = _split(rest if rest.startswith("/") else f"/{rest}")
    return Target(Form.ABSOLUTE, path, query, authority, scheme.lower())


def _split(text: str) -> tuple[str, str | None]:
    path, mark, query = text.partition("?")
    if "%" in path and _BAD_PERCENT.search(path):
        raise _bad("the path has a malformed percent-encoding")
    if _DOT_SEGMENT.search(path):
        raise _bad("the path has a dot segment")
    return path, query if mark else None


def parse_authority_untrusted(text: str) -> Authority:
    """Parse the value of a Host header field, or the authority of a URL.

    Raises:
        RequestError: 400 if it is malformed, has user information, or has an invalid port.
    """
    literal = _IP_LITERAL.match(text)
    if literal is not None:
        host, rest = literal[1], text[literal.end() :]
        try:
            ipaddress.IPv6Address(host)
        except ValueError as exc:
            raise _bad("the host is not a valid IPv6 address") from exc
    else:
        host, colon, port = text.partition(":")
        rest = colon + port
        if not _REG_NAME.fullmatch(host):
            raise _bad("the host is malformed")
    if rest and not rest.startswith(":"):
        raise _bad("the host is malformed")
    if not _PORT.fullmatch(rest[1:]) or int(rest[1:] or 0) > 65535:
        raise _bad("the host's port is malformed")
    return Authority(host.lower(), int(rest[1:]) if rest[1:] else None)


def decode_segment(segment: str) -> str:
    """Decode the percent-encoding of one segment of a path. The result may contain slashes.

    Raises:
        ValueError: it is not UTF-8, or has control characters.
    """
    text = urllib.parse.unquote_to_bytes(segment).decode("utf-8", errors="strict")
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in text):
        raise ValueError("control characters in a path")
    return text


def _bad(detail: str) -> RequestError:
    return RequestError(Failure(400, detail))
