"""Opening TCP connections through a proxy."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Awaitable, Callable

import trio

from ...abc import Dial, Dialer
from ...errors import TLSHandshakeError
from ...failure import FailureKind
from ...security.names import check_host
from ...streams import TLSStream
from ..addresses import AddressBook, first_answer, resolve
from ..dialing import DIRECTLY, ProxyError, dial_directly, dial_failure
from .authentication import ProxyAuthenticator, basic_authentication
from .failures import proxy_error
from .settings import Proxy, ProxySettings
from .socks import open_socks_tunnel
from .tunnel import Tunnel

#: How long a call may take at most (seconds), even if the caller has a later deadline or none. It includes reaching
#: the proxy, its authentication, and its connection to the relay.
MAX_SECONDS = 30.0
#: The fraction of this time, or of the caller's if that is shorter, that a proxy gets. The rest is left to raise an
#: error that names the proxy before the caller's deadline.
_SHARE = 0.95
#: If one of the proxy's addresses has not answered after this time (seconds), the next one is tried in parallel. A
#: proxy needs some time for its own connection to the relay.
NEXT_ADDRESS_SECONDS = 2.0
#: Failures that show that no proxy answers at an address. The proxy's name may have another address.
_NO_PROXY_ANSWERED = frozenset(
    {FailureKind.PROXY_UNREACHABLE, FailureKind.PROXY_UNTRUSTED, FailureKind.PROXY_FAILED, FailureKind.PROXY_SILENT}
)


class ProxyDial:
    """A `hybridrelay.abc.Dial` that goes through the proxy of `settings`, or directly if they name none.

    Args:
        settings: which proxy to use for which address.
        authenticator: for proxies that require more than a user name and a password; see `ProxyAuthenticator`.
        dial: opens connections to the proxy, and direct ones.
        ssl_context: verifies ``https://`` proxies; None means with the system's certificate authorities.
    """

    def __init__(
        self,
        settings: ProxySettings,
        *,
        authenticator: ProxyAuthenticator = basic_authentication,
        dial: Dial = dial_directly,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        #: The settings, as given.
        self.settings = settings
        self._authenticator = authenticator
        #: Opens connections to the proxy, and direct ones.
        self.dial = dial
        self._ssl_context = ssl_context
        self._addresses = AddressBook()

    def __repr__(self) -> str:
        return f"<ProxyDial {self.settings.proxy or 'directly'}>"

    async def __call__(self, host: str, port: int) -> trio.abc.Stream:
        """Open a connection. The proxy resolves host names.

        Raises:
            ProxyError: the proxy cannot be reached, does not answer, or refuses, or `host` cannot be sent to a proxy;
                `failure` says which.
            OSError: as `dial_directly`, if no proxy is used.

        A proxy that takes too long is an error shortly before the caller's deadline, and after `MAX_SECONDS` at the
        latest. If cancelled, nothing stays open.
        """
        proxy = self.settings.proxy_for(host, port)
        if proxy is None:
            return await self.dial(host, port)
        now = trio.current_time()
        seconds = min(trio.current_effective_deadline() - now, MAX_SECONDS) * _SHARE
        try:
            check_host(host)
        except ValueError as exc:
            raise proxy_error(FailureKind.NAME_NOT_FOUND, proxy, "accepts host names and addresses only") from exc
        if "%" in host:
            happened = "cannot reach an IPv6 address with a zone, because the zone is valid on this machine only"
            raise proxy_error(FailureKind.NAME_NOT_FOUND, proxy, happened)
        reached: list[str] = []
        tunnel = functools.partial(self._tunnel, proxy, host, port, reached)
        with trio.move_on_at(now + seconds):
            return await self._over_addresses(proxy, tunnel)
        if reached:
            raise proxy_error(FailureKind.PROXY_SILENT, proxy, f"does not answer within {seconds:.1f} s")
        raise proxy_error(FailureKind.PROXY_UNREACHABLE, proxy, "cannot be reached: no answer")

    async def _over_addresses(
        self, proxy: Proxy, attempt: Callable[[str], Awaitable[trio.abc.HalfCloseableStream]]
    ) -> trio.abc.HalfCloseableStream:
        """Try the addresses of the proxy's name until a proxy answers at one."""
        if self.dial is not dial_directly:
            addresses = [proxy.host]  # an application's own `Dial` resolves names itself
        else:
            try:
                addresses = self._addresses.in_order(await resolve(proxy.host, proxy.port))
            except OSError as exc:
                raise _unreachable(proxy, exc) from exc

        async def remembering(address: str) -> trio.abc.HalfCloseableStream:
            try:
                stream = await attempt(address)
            except ProxyError as exc:
                if exc.failure.kind in _NO_PROXY_ANSWERED:
                    self._addresses.failed(address)
                    raise _NoProxy(exc) from exc
                raise
            self._addresses.succeeded(address)
            return stream

        try:
            return await first_answer(
                addresses,
                remembering,
                no_answer=(_NoProxy,),
                stagger_seconds=NEXT_ADDRESS_SECONDS,
                discard=trio.aclose_forcefully,
            )
        except ExceptionGroup as group:
            errors = [exc.error for exc in group.exceptions if isinstance(exc, _NoProxy)]
            # If something that is not a proxy answers at one address, that says more than silence at the others.
            error = min(errors, key=lambda exc: exc.failure.kind is FailureKind.PROXY_UNREACHABLE)
        raise error

    async def _tunnel(
        self, proxy: Proxy, host: str, port: int, reached: list[str], address: str
    ) -> trio.abc.HalfCloseableStream:
        """Open a connection through the proxy at `address`. Adds the address to `reached` once TCP is connected."""

        async def connect() -> trio.abc.Stream:
            try:
                stream = await self.dial(address, proxy.port)
            except OSError as exc:
                raise _unreachable(proxy, exc) from exc
            reached.append(address)
            return await self._secure(stream, proxy) if proxy.scheme == "https" else stream

        if proxy.is_socks:
            stream, early = await open_socks_tunnel(connect, proxy, host, port), b""
        else:
            from .http import open_http_tunnel  # imported here because h11 is needed for HTTP proxies only

            stream, early = await open_http_tunnel(connect, proxy, host, port, self._authenticator)
        if early or not isinstance(stream, trio.abc.HalfCloseableStream):
            return Tunnel(stream, early)
        return stream

    async def _secure(self, stream: trio.abc.Stream, proxy: Proxy) -> TLSStream:
        context = self._ssl_context or _system_context()
        try:
            tls = TLSStream(stream, context, server_hostname=proxy.host)
            await tls.do_handshake()
        except BaseException as exc:
            await trio.aclose_forcefully(stream)
            if not isinstance(exc, TLSHandshakeError):
                raise
            if exc.untrusted is not None:
                text = f"is not trusted: {exc.untrusted}"
                raise proxy_error(FailureKind.PROXY_UNTRUSTED, proxy, text) from exc
            raise proxy_error(
                FailureKind.PROXY_FAILED, proxy, "does not speak TLS, or closed the connection"
            ) from exc
        return tls


class _NoProxy(Exception):
    """No proxy answered at an address."""

    def __init__(self, error: ProxyError) -> None:
        super().__init__(error)
        self.error = error


def _unreachable(proxy: Proxy, exc: OSError) -> ProxyError:
    failure = dial_failure(exc)
    if failure.kind is FailureKind.OUT_OF_RESOURCES:
        return ProxyError(failure)  # a shortage of this machine, independent of the proxy
    return proxy_error(FailureKind.PROXY_UNREACHABLE, proxy, f"cannot be reached: {failure.text}")


def resolve_dialer(dialer: Dialer | None) -> Dialer:
    """Return the dialer to use; None means one that goes through the proxy that the environment names, if any.

    Raises:
        ConfigurationError: see `ProxySettings.from_environment`.
    """
    if dialer is not None:
        return dialer
    settings = ProxySettings.from_environment()
    return DIRECTLY if settings.proxy is None else Dialer(ProxyDial(settings))


def proxy_of(dialer: Dialer, host: str, port: int) -> Proxy | None:
    """Return the proxy that `dialer` uses for this address. None if it uses none, or if it is an application's own
    `Dial`, for which this is unknown."""
    return dialer.tcp.settings.proxy_for(host, port) if isinstance(dialer.tcp, ProxyDial) else None


def resolves_here(dialer: Dialer, host: str, port: int) -> bool:
    """Return whether `dialer` resolves this name on this machine, so that its addresses can be tried one by one.

    False for a proxy, which resolves names itself, and for an application's own `Dial`, for which this is unknown.
    """
    return _resolves_here(dialer.tcp, host, port)


def _resolves_here(dial: Dial, host: str, port: int) -> bool:
    if isinstance(dial, ProxyDial):
        return dial.settings.proxy_for(host, port) is None and _resolves_here(dial.dial, host, port)
    return dial is dial_directly


@functools.cache
def _system_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
