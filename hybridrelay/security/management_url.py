"""The URL of a relay's management API, and the credentials for it, as an administrator gives them. Pure."""

from __future__ import annotations

import re
import urllib.parse

import attrs

from .names import bracketed, is_loopback, parse_host_untrusted, parse_port_untrusted
from .secret import Secret

__all__ = ["ManagementUrl", "management_authorization", "parse_management_url_untrusted"]

_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]+)(?P<path>/[^?#]*)?", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
#: The longest Authorization header that relays accept.
_MAX_CREDENTIALS = 8192
_SIGNATURE = "SharedAccessSignature "


@attrs.frozen
class ManagementUrl:
    """The URL of a management API."""

    #: ``http`` or ``https``.
    scheme: str
    host: str
    port: int
    #: The part of paths before ``/v1``, without a trailing slash.
    prefix: str = ""

    @property
    def uses_tls(self) -> bool:
        """Whether the API is served over TLS."""
        return self.scheme == "https"

    @property
    def host_header(self) -> str:
        """The value of the Host header."""
        host = bracketed(self.host)
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.prefix}"


def parse_management_url_untrusted(text: str) -> ManagementUrl:
    """Parse ``https://host:port``, with an optional path that a reverse proxy in front of the relay removes.

    Raises:
        ValueError: it is not such a URL. The message does not repeat it, because it may contain a password.
    """
    match = _URL.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected a URL such as https://relay.example.com:9180")
    scheme, authority = match["scheme"].lower(), match["authority"]
    if "@" in authority:
        raise ValueError("a URL with a user or a password is not supported: give the token with --token-file")
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, str(_PORTS[scheme])
    parsed = parse_host_untrusted(host, about_ports="write the port after the host")
    if scheme == "http" and not is_loopback(parsed):
        raise ValueError(
            "http:// would send the token unencrypted: use https://, or connect through ssh -L and use "
            "http://127.0.0.1:PORT"
        )
    prefix = (match["path"] or "").rstrip("/")
    if prefix.endswith("/v1"):
        raise ValueError("leave out /v1, which is added to the URL")
    if urllib.parse.quote(prefix, safe="/%-._~") != prefix:
        raise ValueError("the path contains characters that have to be percent-encoded")
    return ManagementUrl(scheme, parsed, parse_port_untrusted(port), prefix)


def management_authorization(text: str) -> Secret:
    """Return the Authorization header for the credentials in a token file.

    Args:
        text: a token, or a signature (``SharedAccessSignature sr=...``).

    Raises:
        ValueError: the text cannot be either; the message does not repeat it.
    """
    if not text:
        raise ValueError("it is empty")
    if len(text) > _MAX_CREDENTIALS - len("Bearer ") or not (text.isascii() and text.isprintable()):
        raise ValueError("it does not contain a token")
    if text.startswith(_SIGNATURE):
        return Secret(text)
    if " " in text:
        raise ValueError("it contains more than a token")
    return Secret(f"Bearer {text}")
