"""The management API over TCP: where it listens, TLS, which names it serves, and how many connections."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from .._listening import explain_listen_error, open_listeners
from ..errors import ConfigurationError, TransportError
from ..events import EventStream, ManagementListening, ProxyHeaderRefused, logged_events
from ..http import Handler, Limits, Router, Service, Stop, serve
from ..relay.edge.renewal import Renewal
from ..security import NO_NETWORKS, Networks, bracketed, outer_server_context, relay_pin
from ..security.pem_files import load_authorities, read_pem
from ..streams.listening import remote_of
from ..streams.proxy_protocol import ProxyHeaderError, receive_proxy_header
from ..streams.tls import TLSStream
from .connection_slots import SLOTS, ConnectionSlot, ConnectionSlots
from .gate import REFUSAL_SECONDS
from .hosts import AllowedHosts
from .peers import Peer, caller_of_certificate
from .plugins import Authenticator, load_authenticators
from .rendering import render_failure

__all__ = ["ManagementTcp", "TcpOptions"]

#: At most one TLS handshake begins in this time (seconds). It costs about a millisecond, and strangers ask for it.
_HANDSHAKE_INTERVAL = 0.02
#: How many connections may exist in total. Further ones are answered with 503. This is more than there are slots,
#: because a connection that has lost its slot exists for a moment until it has ended.
_MAX_CONNECTIONS = SLOTS + 16
#: Stricter than on the Unix socket, because strangers can connect.
_LIMITS = Limits(idle_seconds=10, body_seconds=10, unrouted_seconds=REFUSAL_SECONDS)


@attrs.frozen(kw_only=True)
class TcpOptions:
    """What an administrator says about TCP.

    Raises:
        ConfigurationError: an address off loopback without a certificate, or an option that needs another one.
    """

    #: Hosts and port numbers; 0: any that is free.
    addresses: Sequence[tuple[str, int]]
    #: PEM, with the chain.
    certificate: Path | None = None
    #: PEM, if the key is not in that file.
    key: Path | None = None
    #: PEM: who issues client certificates.
    client_ca: Path | None = None
    #: Proxies from which every connection has to begin with a PROXY header.
    proxy_protocol_from: Networks = NO_NETWORKS
    #: Reverse proxies that are believed where a request comes from (X-Forwarded-For, Forwarded).
    trusted_proxies: Networks = NO_NETWORKS
    #: Names by which clients reach the API, besides those in the certificate.
    hosts: Sequence[str] = ()

    def __attrs_post_init__(self) -> None:
        if self.certificate is None:
            for option, value in (("key", self.key), ("client CA", self.client_ca)):
                if value is not None:
                    raise ConfigurationError(
                        f"a {option} for the management API needs a certificate",
                        remedy="give --management-tls-certificate as well",
                    )
            for host, _ in self.addresses:
                if not _is_loopback(host):
                    raise ConfigurationError(
                        f"the management API on {host} needs TLS: otherwise, tokens cross the network unencrypted",
                        remedy="give --management-tls-certificate and --management-tls-key, or listen on 127.0.0.1 "
                        "and connect through ssh -L",
                    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


@attrs.frozen
class _ServerTLS:
    context: ssl.SSLContext = attrs.field(repr=False)
    pin: str
    #: The names in the certificate, in lower case.
    names: frozenset[str]


def _load_tls(certificate: Path, key: Path | None, client_ca: Path | None) -> _ServerTLS:
    context = outer_server_context(certificate, key)
    if client_ca is not None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        load_authorities(context, client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return _ServerTLS(context, relay_pin(certificate), _names(certificate))


def _names(certificate: Path) -> frozenset[str]:
    from cryptography import x509  # which takes long to load

    read = x509.load_pem_x509_certificate(read_pem(certificate, what="the certificate file").encode())
    try:
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name.lower().removesuffix(".") for name in names.get_values_for_type(x509.DNSName))


class ManagementTcp:
    """Serves the management API over TCP.

    Args:
        options: see there.
        authenticators: identify further callers; None loads those that are installed.
        events: where events go; None means the log.

    Raises:
        ConfigurationError: a certificate or an authenticator cannot be used.
    """

    def __init__(
        self,
        options: TcpOptions,
        *,
        authenticators: Sequence[tuple[str, Authenticator]] | None = None,
        events: EventStream | None = None,
    ) -> None:
        self._options = options
        self.authenticators = load_authenticators() if authenticators is None else tuple(authenticators)
        self._events = logged_events() if events is None else events
        self._tls: Renewal[_ServerTLS] | None = None
        self._pacing: trio.Lock | None = None
        self._slots = ConnectionSlots()
        #: The slots of the connections that are served.
        self._held: dict[trio.SocketStream, ConnectionSlot] = {}
        if options.certificate is not None:
            paths = [one for one in (options.certificate, options.key, options.client_ca) if one is not None]
            load = partial(_load_tls, options.certificate, options.key, options.client_ca)
            self._tls = Renewal(paths, load, pin=lambda loaded: loaded.pin, events=self._events)

    async def reload(self) -> bool:
        """Read the certificates again; see `Renewal.reload`. False where there are none."""
        return self._tls is not None and await self._tls.reload()

    async def watch(self) -> None:
        """Notice renewed certificates, until cancelled."""
        if self._tls is not None:
            await self._tls.watch()

    async def serve(
        self,
        router: Router[Handler],
        *,
        stop: Stop,
        grace_seconds: float,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop` is set.

        Raises:
            ConfigurationError: it cannot listen at an address.

        Cancelled, it aborts all connections without waiting.
        """
        listeners = await self._listen()
        self._pacing = trio.Lock()
        names = [host for host, _ in self._options.addresses]
        hosts = AllowedHosts([*names, *self._options.hosts], self._certified)
        service = Service(router=router, limits=_LIMITS, hosts=hosts, render_failure=render_failure)
        await serve(
            listeners,
            service,
            grace_seconds=grace_seconds,
            max_connections=_MAX_CONNECTIONS,
            stop=stop,
            hold=self._hold,
            prepare=self._prepare,
            task_status=task_status,
        )

    async def _listen(self) -> list[trio.SocketListener]:
        listeners: list[trio.SocketListener] = []
        try:
            for host, port in self._options.addresses:
                try:
                    opened = await open_listeners(host, port, events=self._events)
                except OSError as exc:
                    text, remedy = explain_listen_error(exc, port, otherwise="or give --management another address")
                    raise ConfigurationError(
                        f"the management API cannot listen on {bracketed(host)}:{port}: {text}", remedy=remedy
                    ) from exc
                listeners += opened
                for listener in opened:
                    self._publish(listener.socket.getsockname())
        except BaseException:
            for listener in listeners:
                listener.socket.close()
            raise
        return listeners

    def _publish(self, name: tuple[Any, ...]) -> None:
        self._events.publish(
            ManagementListening(
                address=f"{bracketed(str(name[0]))}:{name[1]}",
                tls=self._tls is not None,
                pin="" if self._tls is None else self._tls.current.pin,
                client_certificates=self._options.client_ca is not None,
                authenticators=", ".join(name for name, _ in self.authenticators),
            )
        )

    def _certified(self) -> frozenset[str]:
        return frozenset() if self._tls is None else self._tls.current.names

    @contextmanager
    def _hold(self, accepted: trio.SocketStream, end: Callable[[], None]) -> Iterator[None]:
        """Give a connection a slot; if all are taken, end another connection."""
        with self._slots.hold(remote_of(accepted), end) as slot:
            self._held[accepted] = slot
            try:
                yield
            finally:
                del self._held[accepted]

    async def _prepare(self, accepted: trio.SocketStream) -> tuple[trio.abc.Stream, object]:
        """Make the TLS handshake, and learn what the connection says about the caller."""
        address = await self._address_of(accepted)
        peer = Peer(address, trusted_proxies=self._options.trusted_proxies, is_encrypted=self._tls is not None)
        if accepted in self._held:  # otherwise it is about to be answered with 503
            peer = attrs.evolve(peer, on_identified=self._held[accepted].identify)
        if self._tls is None:
            await trio.lowlevel.checkpoint()
            return accepted, peer
        tls = TLSStream(accepted, self._tls.current.context, server_side=True, before_answer=self._pace)
        await tls.do_handshake()
        # Requests may have records of any length: there are few connections, and bodies are short.
        tls.limit_held(None)
        certificate = tls.getpeercert()
        if not certificate:
            return tls, peer
        caller, expires_at, refusal = caller_of_certificate(certificate)
        return tls, attrs.evolve(peer, caller=caller, expires_at=expires_at, refusal=refusal)

    async def _address_of(self, accepted: trio.SocketStream) -> str:
        """The address that a connection comes from, after its PROXY header, if it has to have one."""
        address = remote_of(accepted)
        if not self._options.proxy_protocol_from.covers(address):
            return address
        try:
            stated = await receive_proxy_header(accepted)
        except ProxyHeaderError as exc:
            self._events.publish(ProxyHeaderRefused(peer=address, port="management", detail=str(exc)))
            raise TransportError(str(exc)) from exc
        if stated is not None and accepted in self._held:
            self._held[accepted].move(stated)
        return stated or address

    async def _pace(self) -> None:
        """Let handshakes begin one after the other, so that many at once do not hold up what the relay relays."""
        assert self._pacing is not None
        async with self._pacing:
            await trio.sleep(_HANDSHAKE_INTERVAL)
