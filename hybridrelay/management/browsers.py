"""What browsers add to requests: the cookie of a login, and which page has caused the request. Pure.

A browser adds cookies and client certificates to all requests, even to those that a page of another origin causes.
Whether the page is of the relay's own origin is in Sec-Fetch-Site (W3C Fetch Metadata), or, if the browser does not
send this field, in Origin. Pages cannot change either field.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator

from ..http import Authority, Request

__all__ = ["comes_from_elsewhere", "forgotten_cookies", "is_of_own_page", "login_cookie", "login_cookies"]

_SAFE = frozenset({"GET", "HEAD"})
#: Browsers accept a cookie with this prefix only over HTTPS, for one host, and not from a subdomain (RFC 6265bis).
_SECURE = "__Host-hybridrelay"
_PLAIN = "hybridrelay"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def comes_from_elsewhere(request: Request) -> bool:
    """Whether, according to the browser, a page of another origin (even one of the same site) has caused a request.

    Following a link on such a page does not count: it only shows a page of the relay.
    """
    site = request.headers.all("sec-fetch-site")
    if not site:
        origin = request.headers.all("origin")
        return bool(origin) and not _is_own_origin(request, origin)
    if site in (["same-origin"], ["none"]):
        return False
    follows_link = (
        request.headers.get("sec-fetch-mode") == "navigate" and request.headers.get("sec-fetch-dest") == "document"
    )
    return not (request.method in _SAFE and follows_link)


def is_of_own_page(request: Request) -> bool:
    """Whether, according to the browser, a page of this relay has caused a request."""
    site = request.headers.all("sec-fetch-site")
    return site == ["same-origin"] if site else _is_own_origin(request, request.headers.all("origin"))


def _is_own_origin(request: Request, origins: list[str]) -> bool:
    """Return whether Origin (RFC 6454) has the host and port of the request. Its scheme may be that of a proxy."""
    if len(origins) != 1 or request.authority is None:
        return False
    try:
        parts = urllib.parse.urlsplit(origins[0])
        port = parts.port
    except ValueError:
        return False
    default = _DEFAULT_PORTS.get(parts.scheme)
    own = request.authority
    return default is not None and (parts.hostname, port or default) == (own.host, own.port or default)


def login_cookies(request: Request) -> Iterator[str]:
    """Yield the values of the login cookie, that with the ``__Host-`` prefix first."""
    found = [pair.strip().partition("=") for value in request.headers.all("cookie") for pair in value.split(";")]
    for name in (_name(request.authority, is_secure=True), _name(request.authority, is_secure=False)):
        yield from (value for key, _, value in found if key == name and value)


def login_cookie(request: Request, value: str, *, is_encrypted: bool, seconds: float) -> tuple[str, str]:
    """Return the header field that sets the cookie of a login.

    Args:
        request: the request that is answered with this field.
        value: the text that only the browser has.
        is_encrypted: whether the connection has TLS, or a trusted proxy says that it was reached over TLS. If another
            proxy terminates TLS, the scheme of the browser's Origin shows it.
        seconds: how long the browser keeps it.
    """
    is_secure = is_encrypted or (request.headers.get("origin") or "").startswith("https://")
    return _cookie(request, value, is_secure=is_secure, seconds=seconds)


def forgotten_cookies(request: Request) -> Iterator[tuple[str, str]]:
    """Yield the header fields that delete the login cookie, under each name that it may have."""
    for is_secure in (True, False):
        yield _cookie(request, "", is_secure=is_secure, seconds=0)


def _cookie(request: Request, value: str, *, is_secure: bool, seconds: float) -> tuple[str, str]:
    name = _name(request.authority, is_secure=is_secure)
    secure = "; Secure" if is_secure else ""
    return "Set-Cookie", f"{name}={value}; Path=/; Max-Age={int(seconds)}; HttpOnly; SameSite=Strict{secure}"


def _name(authority: Authority | None, *, is_secure: bool) -> str:
    # Browsers send cookies to all ports of a host. The port in the name distinguishes relays that are reached through
    # local ports of the same machine (`ssh -L`).
    port = None if authority is None else authority.port
    name = _SECURE if is_secure else _PLAIN
    return name if port is None else f"{name}-{port}"
