"""The `Dial` that crosses a proxy."""

from __future__ import annotations

import functools
import ssl

import trio

from ...abc import Dial
from ...errors import TLSHandshakeError
from ...security.names import check_host
from ...streams import TLSStream
from ..dialing import FailureKind, classify, dial_directly
from .failures import proxy_error
from .http import ProxyAuthenticator, basic_authentication, open_http_tunnel
from .settings import Proxy, ProxySettings
from .socks import open_socks_tunnel
from .tunnel import Tunnel

#: For the proxy, its authentication and its connection to the relay, where the caller sets no deadline (seconds).
MAX_SECONDS = 30.0
#: The part of the caller's time that a proxy gets: so there is some left to say that it was the proxy who was silent.
_SHARE = 0.95


class ProxyDial:
    """A `hybridrelay.abc.Dial` that goes through the proxy of `settings`, or directly where they name none.

    Args:
        settings: which proxy for which address.
        authenticator: for proxies that want more than a user name and a password; see `ProxyAuthenticator`.
        dial: opens the connections to the proxy, and those that need none.
        ssl_context: verifies ``https://`` proxies; None means by the authorities of the system.
    """

    def __init__(
        self,
        settings: ProxySettings,
        *,
        authenticator: ProxyAuthenticator = basic_authentication,
        dial: Dial = dial_directly,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        #: As given.
        self.settings = settings
        self._authenticator = authenticator
        self._dial = dial
        self._ssl_context = ssl_context

    def __repr__(self) -> str:
        return f"<ProxyDial {self.settings.proxy or 'directly'}>"

    async def __call__(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        """Open a connection. Names are left to the proxy to look up.

        Raises:
            ProxyError: the proxy cannot be reached, does not answer, or says no; `failure` says which.
            OSError: as `dial_directly`, where no proxy is used.

        The caller's deadline is looked at, so that this fails with its own words shortly before that cancels it;
        without one, `MAX_SECONDS` count. Cancelled, nothing stays open.
        """
        proxy = self.settings.proxy_for(host, port)
        if proxy is None:
            return await self._dial(host, port)
        now = trio.current_time()
        seconds = min(trio.current_effective_deadline() - now, MAX_SECONDS) * _SHARE
        reached = False

        async def connect() -> trio.abc.Stream:
            nonlocal reached
            stream = await self._reach(proxy)
            reached = True
            return await self._secure(stream, proxy) if proxy.scheme == "https" else stream

        try:
            check_host(host)
        except ValueError as exc:
            raise proxy_error(FailureKind.NAME_NOT_FOUND, proxy, "can be asked for hosts only, not for this") from exc
        if "%" in host:
            happened = "cannot reach an IPv6 address with a zone, which means something on this machine only"
            raise proxy_error(FailureKind.NAME_NOT_FOUND, proxy, happened)
        with trio.move_on_at(now + seconds):
            if proxy.is_socks:
                stream, early = await open_socks_tunnel(connect, proxy, host, port), b""
            else:
                stream, early = await open_http_tunnel(connect, proxy, host, port, self._authenticator)
            if early or not isinstance(stream, trio.abc.HalfCloseableStream):
                return Tunnel(stream, early)
            return stream
        if reached:
            raise proxy_error(FailureKind.PROXY_SILENT, proxy, f"does not answer within {seconds:.1f} s")
        raise proxy_error(FailureKind.PROXY_UNREACHABLE, proxy, "cannot be reached: no answer")

    async def _reach(self, proxy: Proxy) -> trio.abc.HalfCloseableStream:
        try:
            return await self._dial(proxy.host, proxy.port)
        except OSError as exc:
            happened = f"cannot be reached: {classify(exc).text}"
            raise proxy_error(FailureKind.PROXY_UNREACHABLE, proxy, happened) from exc

    async def _secure(self, stream: trio.abc.Stream, proxy: Proxy) -> TLSStream:
        context = self._ssl_context or _system_context()
        try:
            tls = TLSStream(stream, context, server_hostname=proxy.host)
            await tls.do_handshake()
        except BaseException as exc:
            await trio.aclose_forcefully(stream)
            if not isinstance(exc, TLSHandshakeError):
                raise
            if isinstance(exc.__cause__, ssl.SSLCertVerificationError):
                text = f"is not trusted: {exc.__cause__.verify_message}"
                raise proxy_error(FailureKind.PROXY_UNTRUSTED, proxy, text) from exc
            raise proxy_error(FailureKind.PROXY_FAILED, proxy, "does not speak TLS, or hung up") from exc
        return tls


def resolve_dial(dial: Dial | None) -> Dial:
    """The dial to use where None means: as the environment says.

    Raises:
        ConfigurationError: see `ProxySettings.from_environment`.
    """
    if dial is not None:
        return dial
    settings = ProxySettings.from_environment()
    return dial_directly if settings.proxy is None else ProxyDial(settings)


def proxy_of(dial: Dial, host: str, port: int) -> Proxy | None:
    """The proxy that `dial` uses for this address, as far as that is known: other people's dials do not tell."""
    return dial.settings.proxy_for(host, port) if isinstance(dial, ProxyDial) else None


@functools.cache
def _system_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
