"""The management API over TCP: the addresses, TLS, the accepted host names, and the number of connections."""

from __future__ import annotations

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
from ..events.log import logged_events
from ..events.management import ManagementListening
from ..events.relay import ProxyHeaderRefused
from ..events.stream import EventStream
from ..http import Handler, Limits, Router, Service, Stop, serve
from ..relay.edge.renewal import Renewal
from ..security import NO_NETWORKS, Networks, bracketed, outer_server_context, relay_pin
from ..security.names import is_loopback
from ..security.parsing_certificates import parsing_certificate
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

#: At most one TLS handshake begins in each interval of this length (seconds). A handshake takes about a millisecond
#: of processor time, and anyone who can reach the port can request one.
_HANDSHAKE_INTERVAL = 0.02
#: How many connections may exist in total. Further ones are answered with 503. The limit exceeds the number of slots,
#: because a connection that has lost its slot takes a moment to end.
_MAX_CONNECTIONS = SLOTS + 16
#: Stricter than on the Unix socket, because strangers can connect.
_LIMITS = Limits(idle_seconds=10, body_seconds=10, unrouted_seconds=REFUSAL_SECONDS)


@attrs.frozen(kw_only=True)
class TcpOptions:
    """The options for the management API over TCP.

    Raises:
        ConfigurationError: an address is not a loopback address, and there is no certificate; or an option is missing
            that another one requires.
    """

    #: Hosts and port numbers. Port 0 means any free port.
    addresses: Sequence[tuple[str, int]]
    #: The server certificate and its chain (PEM).
    certificate: Path | None = None
    #: The certificate's private key (PEM), if it is not in the same file.
    key: Path | None = None
    #: The certificate authorities that issue client certificates (PEM).
    client_ca: Path | None = None
    #: Proxies whose connections have to begin with a PROXY header.
    proxy_protocol_from: Networks = NO_NETWORKS
    #: Reverse proxies that are trusted to say where a request comes from (X-Forwarded-For, Forwarded).
    trusted_proxies: Networks = NO_NETWORKS
    #: Host names by which clients reach the API, in addition to those in the certificate.
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
                if not is_loopback(host):
                    raise ConfigurationError(
                        f"the management API on {host} needs TLS: otherwise, tokens cross the network unencrypted",
                        remedy="give --management-tls-certificate and --management-tls-key, or listen on 127.0.0.1 "
                        "and connect through ssh -L",
                    )


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
    from cryptography import x509  # imported here because loading it takes long

    text = read_pem(certificate, what="the certificate file")
    try:
        with parsing_certificate():
            extensions = x509.load_pem_x509_certificate(text.encode()).extensions
            found = [one.value for one in extensions if isinstance(one.value, x509.SubjectAlternativeName)]
            names = [name for one in found for name in one.get_values_for_type(x509.DNSName)]
    except ValueError as exc:
        raise ConfigurationError(f"{certificate}: {exc}", remedy="it must be an X.509 certificate in PEM") from exc
    return frozenset(name.lower().removesuffix(".") for name in names)


class ManagementTcp:
    """Serves the management API over TCP.

    Args:
        options: see `TcpOptions`.
        authenticators: the authenticators that identify callers with other credentials, by name; None means those of
            all installed packages.
        events: the stream to which events are published; None means the log.

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
        #: The addresses on which it listens, such as ``127.0.0.1:9180``; empty before it does.
        self.bound: list[str] = []
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
        """Read the certificates again; see `Renewal.reload`. Returns False if there is no certificate."""
        return self._tls is not None and await self._tls.reload()

    def use_proxies(self, proxy_protocol_from: Networks, trusted_proxies: Networks) -> None:
        """Use other proxies (see `TcpOptions`) for connections that arrive from now on."""
        self._options = attrs.evolve(
            self._options, proxy_protocol_from=proxy_protocol_from, trusted_proxies=trusted_proxies
        )

    async def watch(self) -> None:
        """Watch for renewed certificates, until cancelled."""
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
            ConfigurationError: it is not possible to listen at one of the addresses.

        If cancelled, this aborts all connections without waiting.
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
        self.bound.append(f"{bracketed(str(name[0]))}:{name[1]}")
        self._events.publish(
            ManagementListening(
                address=self.bound[-1],
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
        """Give a connection a slot while the block runs; if all slots are taken, another connection is closed."""
        with self._slots.hold(remote_of(accepted), end) as slot:
            self._held[accepted] = slot
            try:
                yield
            finally:
                del self._held[accepted]

    async def _prepare(self, accepted: trio.SocketStream) -> tuple[trio.abc.Stream, object]:
        """Do the TLS handshake, if there is TLS. Return the stream, and the peer that the connection identifies."""
        address = await self._address_of(accepted)
        peer = Peer(address, trusted_proxies=self._options.trusted_proxies, is_encrypted=self._tls is not None)
        if accepted in self._held:  # otherwise it is about to be answered with 503
            peer = attrs.evolve(peer, on_identified=self._held[accepted].identify)
        if self._tls is None:
            await trio.lowlevel.checkpoint()
            return accepted, peer
        tls = TLSStream(accepted, self._tls.current.context, server_side=True, before_answer=self._pace)
        await tls.do_handshake()
        # From here on, records may have any length: there are few connections, and request bodies are short.
        tls.limit_held(None)
        certificate = tls.getpeercert()
        if not certificate:
            return tls, peer
        caller, expires_at, refusal = caller_of_certificate(certificate)
        return tls, attrs.evolve(peer, caller=caller, expires_at=expires_at, refusal=refusal)

    async def _address_of(self, accepted: trio.SocketStream) -> str:
        """Return the address that a connection comes from; from its PROXY header if it has to have one."""
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
        """Wait so long that many handshakes do not delay the data that the relay moves."""
        assert self._pacing is not None
        async with self._pacing:
            await trio.sleep(_HANDSHAKE_INTERVAL)
