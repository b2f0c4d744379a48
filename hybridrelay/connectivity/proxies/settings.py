"""Which proxy to use for which address: from the environment, or named explicitly."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Self
from urllib.parse import unquote

import attrs

from ..._defaults import PROXY_PASSWORD_VARIABLE
from ..._text_files import strip_value
from ..._value import Value
from ...errors import ConfigurationError
from ...security.names import bracketed, check_host, parse_port_untrusted
from ...security.secret import Secret
from .no_proxy import NoProxy

#: The port for each scheme if the URL has none.
_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
#: The first one that is set is used; lower case precedes upper case, as in curl. ``http_proxy`` is not included,
#: since every connection to the relay is a tunnel, like those to https:// URLs.
_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_NO_PROXY_VARIABLES = ("no_proxy", "NO_PROXY")
_FROM_VARIABLE = f"the proxy's password in {PROXY_PASSWORD_VARIABLE}"
#: Given instead of a URL: connect directly, whatever the environment names.
DIRECT = "none"
#: RFC 1929 allows 255 bytes for each; HTTP credentials are not longer in practice.
_MAX_CREDENTIAL_BYTES = 255

_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?"
    r"(?:(?P<user>[^@/:]*)(?::(?P<password>[^@/]*))?@)?"
    r"(?P<host>\[[^\]@/]*:[^\]@/]*\]|[^:@/\[\]]*)(?::(?P<port>[^@/:]*))?/?"
)


@attrs.frozen
class Proxy(Value):
    """A proxy: its address, its protocol, and our credentials. `str()` shows no credentials."""

    #: ``http``, ``https`` (TLS to the proxy itself), ``socks5`` or ``socks5h``; the last two are equivalent here.
    scheme: str = attrs.field(validator=attrs.validators.in_(_DEFAULT_PORTS))
    #: A name or an address; IPv6 without brackets.
    host: str
    port: int
    username: str | None = attrs.field(default=None, repr=False)
    password: Secret | None = attrs.field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}"

    @property
    def is_socks(self) -> bool:
        """Whether the proxy is a SOCKS proxy, not an HTTP proxy."""
        return self.scheme.startswith("socks")

    @classmethod
    def parse_untrusted(cls, text: str) -> Self:
        """Parse ``scheme://user:password@host:port``; only the host is required. Credentials are %-encoded.

        Raises:
            ValueError: the text is invalid; the message says why, and does not quote the text.
        """
        text = strip_value(text)
        match = _URL.fullmatch(text)
        if match is None:
            if "@" in text:
                raise ValueError(
                    "expected scheme://user:password@host:port; in user and password, special characters are "
                    "%-encoded: @ is %40, : is %3A, / is %2F, # is %23, % is %25"
                )
            raise ValueError("expected http://host:port, https://host:port or socks5://host:port")
        scheme = (match["scheme"] or "http").lower()
        if scheme not in _DEFAULT_PORTS:
            raise ValueError("the URL of a proxy begins with http://, https://, socks5:// or socks5h://")
        port = parse_port_untrusted(match["port"]) if match["port"] else _DEFAULT_PORTS[scheme]
        username = None if match["user"] is None else _credential(match["user"])
        password = None if match["password"] is None else Secret(_credential(match["password"]))
        if username is not None and ":" in username:
            raise ValueError("a proxy's user name has no colon")
        return cls(scheme, check_host(match["host"].strip("[]")), port, username, password)


@attrs.frozen
class ProxySettings(Value):
    """The proxy to use, and the addresses for which it is not used."""

    proxy: Proxy | None = None
    exceptions: NoProxy = attrs.field(factory=NoProxy)
    #: Where the setting comes from, for messages: for instance ``HTTPS_PROXY`` or ``--proxy``. Empty if nothing was
    #: set.
    source: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Use the proxy in ``HTTPS_PROXY``, or else in ``ALL_PROXY``. Loopback addresses, and those in ``NO_PROXY``,
        are reached directly.

        The variables may also be in lower case; an empty one counts as unset. The URL contains the credentials, as
        usual; alternatively, the password is in ``HYBRIDRELAY_PROXY_PASSWORD``.

        Raises:
            ConfigurationError: the variable is not a usable URL; the message names the variable, and does not quote
                it.
        """
        environ = os.environ if environ is None else environ
        name = next((name for name in _VARIABLES if environ.get(name, "").strip()), None)
        if name is None:
            return cls()
        try:
            proxy = Proxy.parse_untrusted(environ[name])
        except ValueError as exc:
            raise ConfigurationError(
                f"the environment variable {name} is not a proxy: {exc}",
                remedy=f"correct {name}, or give the option --proxy (--proxy {DIRECT} for no proxy at all)",
            ) from None
        if proxy.username is not None and proxy.password is None and environ.get(PROXY_PASSWORD_VARIABLE):
            proxy = _with_password(proxy, Secret(environ[PROXY_PASSWORD_VARIABLE].rstrip("\r\n")), _FROM_VARIABLE)
        listed = next((strip_value(environ[name]) for name in _NO_PROXY_VARIABLES if environ.get(name)), "")
        return cls(proxy, NoProxy.parse(listed, loopback=True), name)

    @classmethod
    def explicit(cls, url: str, *, password: Secret | None = None, source: str = "--proxy") -> Self:
        """Use this proxy for every address, whatever the environment names; ``none`` means no proxy.

        Args:
            url: see `Proxy.parse_untrusted`.
            password: the password of the user in the URL.
            source: where the URL comes from, for messages.

        Raises:
            ConfigurationError: the URL is not usable, or there is a password without a user name. The message does
                not quote the URL.
        """
        if strip_value(url).lower() == DIRECT:
            return cls(source=source)
        try:
            proxy = Proxy.parse_untrusted(url)
        except ValueError as exc:
            raise ConfigurationError(f"{source} is not a proxy: {exc}") from None
        if password is not None:
            if proxy.username is None:
                raise ConfigurationError(
                    f"there is a password for the proxy, but no user name in {source}",
                    remedy="write the name into the URL: http://name@host:port",
                )
            proxy = _with_password(proxy, password, "the proxy's password")
        return cls(proxy, source=source)

    def proxy_for(self, host: str, port: int) -> Proxy | None:
        """Return the proxy for this address, or None to connect directly."""
        return None if self.exceptions.covers(host, port) else self.proxy


def has_password(url: str) -> bool:
    """Return whether a proxy's URL contains a password, which must not be given on a command line."""
    credentials, _, _ = url.rpartition("@")
    return ":" in credentials.rpartition("//")[2]


def _credential(text: str) -> str:
    try:
        credential = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("user name or password is not UTF-8 once it is %-decoded; a % itself is %25") from None
    if not _is_credential(credential):
        raise ValueError("user name or password is too long, or not printable")
    return credential


def _is_credential(text: str) -> bool:
    # isprintable() comes first: an environment variable that is not UTF-8 contains surrogates, which are not
    # printable, and on which encode() would fail.
    return text.isprintable() and len(text.encode()) <= _MAX_CREDENTIAL_BYTES


def _with_password(proxy: Proxy, password: Secret, what: str) -> Proxy:
    if not _is_credential(password.reveal()):
        raise ConfigurationError(
            f"{what} is too long, or not printable",
            remedy=f"it is one line of at most {_MAX_CREDENTIAL_BYTES} bytes",
        )
    return attrs.evolve(proxy, password=password)
