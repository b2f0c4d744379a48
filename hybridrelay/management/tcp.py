"""The management API over TCP: the addresses, TLS, the accepted host names, and the number of connections."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import attrs
import trio

from .._changing_listeners import change_listeners
from .._file_thread import thread_of_file
from .._listening import explain_listen_error, open_listeners
from .._nursery import FlatNursery
from .._threads import run_in_thread
from .._value import Value
from ..errors import ConfigurationError, TransportError
from ..events.log import logged_events
from ..events.management import ManagementClosed, ManagementListening
from ..events.relay import ProxyHeaderRefused
from ..events.stream import EventStream
from ..http import Handler, Limits, Router, Service, Stop, serve
from ..relay.edge.renewal import Renewal
from ..security import Networks, bracketed, outer_server_context, relay_pin
from ..security.parsing_certificates import parsing_certificate
from ..security.pem_files import CA_FILE, certificates_in, read_pem, use_authorities
from ..streams.listening import remote_of
from ..streams.proxy_protocol import ProxyHeaderError, receive_proxy_header
from ..streams.tls import TLSStream
from .connection_slots import SLOTS, ConnectionSlot, ConnectionSlots
from .gate import REFUSAL_SECONDS
from .hosts import AllowedHosts
from .peers import Peer, caller_of_certificate
from .plugins import Authenticator, load_authenticators
from .rendering import render_failure
from .tcp_options import TcpOptions

__all__ = ["ManagementTcp", "TcpOptions"]

#: At most one TLS handshake begins in each interval of this length (seconds). A handshake takes about a millisecond
#: of processor time, and anyone who can reach the port can request one.
_HANDSHAKE_INTERVAL = 0.02
#: How many connections may exist in total. Further ones are answered with 503. The limit exceeds the number of slots,
#: because a connection that has lost its slot takes a moment to end.
_MAX_CONNECTIONS = SLOTS + 16
#: Stricter than on the Unix socket, because strangers can connect.
_LIMITS = Limits(idle_seconds=10, body_seconds=10, unrouted_seconds=REFUSAL_SECONDS)


@attrs.frozen
class _ServerTLS(Value):
    context: ssl.SSLContext = attrs.field(repr=False)
    pin: str
    #: The names in the certificate, in lower case.
    names: frozenset[str]
    #: The CAs of client certificates; see `certificates_in`.
    client_cas: frozenset[str] = attrs.field(default=frozenset(), repr=False)


def _load_tls(certificate: Path, key: Path | None, client_ca: Path | None) -> _ServerTLS:
    context = outer_server_context(certificate, key)
    cas = frozenset[str]()
    if client_ca is not None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        text = read_pem(client_ca, what=CA_FILE)
        use_authorities(context, text, client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        cas = certificates_in(text)
    return _ServerTLS(context, relay_pin(certificate), _names(certificate), cas)


def _names(certificate: Path) -> frozenset[str]:
    from cryptography import x509  # imported here because loading it takes a long time

    text = read_pem(certificate, what="the certificate file")
    try:
        with parsing_certificate():
            extensions = x509.load_pem_x509_certificate(text.encode()).extensions
            found = [one.value for one in extensions if isinstance(one.value, x509.SubjectAlternativeName)]
            names = [name for one in found for name in one.get_values_for_type(x509.DNSName)]
    except ValueError as exc:
        raise ConfigurationError(f"{certificate}: {exc}", remedy="it must be an X.509 certificate in PEM") from exc
    return frozenset(name.lower().removesuffix(".") for name in names)


@attrs.define(eq=False)
class _Served:
    """An address at which the API is served."""

    #: With the actual port in place of port 0; several if the name of the host has several addresses.
    bound: tuple[str, ...]
    #: Connections that arrive from now on have TLS with this certificate, or none.
    tls: Renewal[_ServerTLS] | None
    stop: Stop = attrs.field(factory=Stop)
    closed: trio.Event = attrs.field(factory=trio.Event)

    async def close(self) -> None:
        """Accept no more connections. Running requests may continue for a while."""
        self.stop.set()
        with trio.CancelScope(shield=True):
            await self.closed.wait()


#: Serves an address, with TLS or without. Raises ConfigurationError if it is not possible to listen there.
_Begin: TypeAlias = Callable[[tuple[str, int], Renewal[_ServerTLS] | None], Awaitable[_Served]]


class ManagementTcp:
    """Serves the management API over TCP. While it serves, the options may be changed.

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
        self._loads_authenticators = authenticators is None
        #: By name. The list is filled when the API is served over TCP for the first time.
        self.authenticators: list[tuple[str, Authenticator]] = list(authenticators or ())
        if options.addresses:
            self._load_authenticators()
        self._events = logged_events() if events is None else events
        self._pacing: trio.Lock | None = None
        self._slots = ConnectionSlots()
        #: The slots of the connections that are served.
        self._held: dict[trio.SocketStream, ConnectionSlot] = {}
        self._served: dict[tuple[str, int], _Served] = {}
        #: Serves one more address, with TLS or without; None while it does not serve.
        self._begin: _Begin | None = None
        self._changing = trio.Lock()
        #: Cancelled when the files to be watched are others.
        self._watching = trio.CancelScope()
        #: The certificate that is watched, and whose names clients may use; None if there is no TLS.
        self._tls = self._load(options)

    @property
    def bound(self) -> list[str]:
        """The addresses on which it listens, such as ``127.0.0.1:9180``; empty before it does."""
        return [address for one in self._served.values() for address in one.bound]

    @property
    def certificate_error(self) -> ConfigurationError | None:
        """Why the last attempt to read the certificate again has failed; None if it has not."""
        return None if self._tls is None else self._tls.error

    def _load_authenticators(self) -> None:
        if self._loads_authenticators:
            self.authenticators += load_authenticators()
            self._loads_authenticators = False

    def _load(self, options: TcpOptions) -> Renewal[_ServerTLS] | None:
        """Read the certificate. Blocks.

        Raises:
            ConfigurationError: it cannot be used.
        """
        if options.certificate is None:
            return None
        paths = [one for one in (options.certificate, options.key, options.client_ca) if one is not None]
        load = partial(_load_tls, options.certificate, options.key, options.client_ca)
        return Renewal(paths, load, pin=lambda loaded: loaded.pin, events=self._events)

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
        while True:
            with trio.CancelScope() as self._watching:
                if self._tls is None:
                    await trio.sleep_forever()
                else:
                    await self._tls.watch()

    async def change(self, options: TcpOptions) -> None:
        """Use other options from now on. Requests that are being served continue; new addresses are opened before
        removed ones are closed.

        Raises:
            ConfigurationError: it is not possible to listen at one of the addresses, or a certificate or an
                authenticator cannot be used. Nothing was changed, except that addresses that the message names had
                to be closed, and cannot be opened again.
        """
        async with self._changing:
            if options.addresses:
                await run_in_thread(self._load_authenticators)
            before = self._options, self._tls
            files = (options.certificate, options.key, options.client_ca)
            tls = self._tls
            if files != (self._options.certificate, self._options.key, self._options.client_ca):
                tls = await thread_of_file(options.certificate).run(self._load, options)
            self._options = options
            # While addresses that are to be closed have TLS, the names in their certificate stay valid.
            self._tls = self._tls if tls is None else tls
            if self._begin is not None:
                try:
                    await self._change_addresses(self._begin, options, tls, before[1])
                except BaseException:
                    self._options, self._tls = before
                    raise
            self._tls = tls
            for one in self._served.values():
                if one.tls is not tls:
                    one.tls = tls
                    self._publish(one)
            self._watching.cancel()

    async def _change_addresses(
        self, begin: _Begin, options: TcpOptions, tls: Renewal[_ServerTLS] | None, before: Renewal[_ServerTLS] | None
    ) -> None:
        """Open and close addresses. Those that stay open keep their TLS."""

        async def open_one(key: tuple[str, int]) -> _Served:
            # If another address cannot be opened, one that was closed for it is opened again as it was.
            return await begin(key, tls if key in options.addresses else before)

        async def close_one(one: _Served) -> None:
            await one.close()
            for address in one.bound:
                self._events.publish(ManagementClosed(address=address))

        await change_listeners(
            self._served,
            list(options.addresses),
            open=open_one,
            close=close_one,
            may_exclude=lambda one, key: any(address.endswith(f":{key[1]}") for address in one.bound),
            describe=lambda key: f"the management API on {bracketed(key[0])}:{key[1]}",
        )

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
        self._pacing = trio.Lock()
        service = Service(
            router=router,
            limits=_LIMITS,
            hosts=AllowedHosts((), self._known_names),
            render_failure=render_failure,
        )
        async with FlatNursery() as nursery:

            async def begin(key: tuple[str, int], tls: Renewal[_ServerTLS] | None) -> _Served:
                listeners = await self._listen(*key)
                served = _Served(tuple(map(_address_of, listeners)), tls)
                await nursery.start(
                    partial(
                        serve,
                        listeners,
                        service,
                        grace_seconds=grace_seconds,
                        max_connections=_MAX_CONNECTIONS,
                        stop=served.stop,
                        hold=self._hold,
                        prepare=partial(self._prepare, served),
                        closed=served.closed,
                    )
                )
                self._publish(served)
                return served

            self._begin = begin
            try:
                for key in dict.fromkeys(self._options.addresses):
                    self._served[key] = await begin(key, self._tls)
                task_status.started()
                await stop.wait()
            finally:
                self._begin = None
            for one in self._served.values():
                one.stop.set()
        self._served.clear()

    async def _listen(self, host: str, port: int) -> list[trio.SocketListener]:
        try:
            return await open_listeners(host, port, events=self._events)
        except OSError as exc:
            text, remedy = explain_listen_error(exc, port, otherwise="or give --management another address")
            raise ConfigurationError(
                f"the management API cannot listen on {bracketed(host)}:{port}: {text}", remedy=remedy
            ) from exc

    def _publish(self, served: _Served) -> None:
        """Publish how an address is served from now on."""
        tls = None if served.tls is None else served.tls.current
        for address in served.bound:
            self._events.publish(
                ManagementListening(
                    address=address,
                    tls=tls is not None,
                    pin="" if tls is None else tls.pin,
                    client_certificates=tls is not None and tls.context.verify_mode is not ssl.CERT_NONE,
                    authenticators=", ".join(name for name, _ in self.authenticators),
                )
            )

    def _known_names(self) -> frozenset[str]:
        """Return the names by which clients may reach the API."""
        names = [host for host, _ in self._options.addresses]
        known = frozenset(name.lower().removesuffix(".") for name in (*names, *self._options.hosts))
        return known if self._tls is None else known | self._tls.current.names

    @contextmanager
    def _hold(self, accepted: trio.SocketStream, end: Callable[[], None]) -> Iterator[None]:
        """Give a connection a slot while the block runs; if all slots are taken, another connection is closed."""
        with self._slots.hold(remote_of(accepted), end) as slot:
            self._held[accepted] = slot
            try:
                yield
            finally:
                del self._held[accepted]

    async def _prepare(self, served: _Served, accepted: trio.SocketStream) -> tuple[trio.abc.Stream, object]:
        """Do the TLS handshake, if there is TLS. Return the stream, and the peer that the connection identifies."""
        renewal = served.tls
        address = await self._address_of(accepted)
        peer = Peer(address, trusted_proxies=self._options.trusted_proxies, is_encrypted=renewal is not None)
        if accepted in self._held:  # otherwise it is about to be answered with 503
            peer = attrs.evolve(peer, on_identified=self._held[accepted].identify)
        if renewal is None:
            await trio.lowlevel.checkpoint()
            return accepted, peer
        used = renewal.current
        tls = TLSStream(accepted, used.context, server_side=True, before_answer=self._pace)
        await tls.do_handshake()
        # From here on, records may have any length: there are few connections, and request bodies are short.
        tls.limit_held(None)
        certificate = tls.getpeercert()
        if not certificate:
            return tls, peer
        caller, expires_at, refusal = caller_of_certificate(certificate)

        def is_trusted() -> bool:
            return self._tls is not None and self._tls.current.client_cas >= used.client_cas

        return tls, attrs.evolve(peer, caller=caller, expires_at=expires_at, refusal=refusal, is_trusted=is_trusted)

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
        """Wait long enough that many handshakes do not delay the data that the relay moves."""
        assert self._pacing is not None
        async with self._pacing:
            await trio.sleep(_HANDSHAKE_INTERVAL)


def _address_of(listener: trio.SocketListener) -> str:
    name = listener.socket.getsockname()
    return f"{bracketed(str(name[0]))}:{name[1]}"
