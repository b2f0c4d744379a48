"""The addresses at which callers reach a management API: the Unix socket in a state directory, or a URL."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Protocol

import attrs
import trio

from .._shortage import remedy_or, text_or
from .._value import Value
from ..errors import ManagementError, RelayIdentityError, StateError, TLSHandshakeError
from ..relay.store.state_dir import MANAGEMENT_SOCKET, local_socket
from ..security import Secret, management_client_context, spki_pin
from ..security.management_url import ManagementUrl
from ..streams.connecting import open_tcp
from ..streams.tls import TLSStream
from ..streams.unix_sockets import connect_unix_socket

__all__ = ["Address", "LocalAddress", "UrlAddress"]


class Address(Protocol):
    """Opens connections to a management API."""

    @property
    def host(self) -> str:
        """The value of the Host header."""

    @property
    def prefix(self) -> str:
        """The part of paths before ``/v1``."""

    @property
    def authorization(self) -> Secret | None:
        """The value of the Authorization header; None if the connection identifies the caller."""

    async def connect(self) -> trio.abc.Stream:
        """Open a connection. The caller sets the deadline.

        Raises:
            ManagementError: there is no relay, or it cannot be reached.
            RelayIdentityError: its certificate is not trusted. No credentials were sent.
            StateError: there is no such state directory.
            ConfigurationError: the file with the CA cannot be used.
            OSError: this user may not look at the state directory.
        """


@attrs.frozen
class LocalAddress(Value):
    """The relay that uses a state directory on this machine. The socket identifies the caller."""

    state_dir: Path
    host: str = "localhost"
    prefix: str = ""
    authorization: Secret | None = None

    async def connect(self) -> trio.abc.Stream:
        """See `Address.connect`."""
        if not await trio.Path(self.state_dir).is_dir():
            raise StateError(
                f"the state directory {self.state_dir} does not exist", remedy="give the state directory of the relay"
            )
        stream = await self.connect_if_it_runs()
        if stream is None:
            raise ManagementError(
                f"no relay is running with the state directory {self.state_dir}",
                remedy="start it, or give the state directory of a running relay; if the relay is running, look for "
                "management.unavailable in its log",
            )
        return stream

    async def connect_if_it_runs(self) -> trio.abc.Stream | None:
        """Open a connection; return None if nothing is listening on the socket. The caller sets the deadline: while
        the queue of connections is full, this waits.

        Raises:
            ManagementError: connecting fails for another reason; for example, this user may not connect.
        """
        try:
            return await connect_unix_socket(self.socket)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return None
        except OSError as exc:
            raise ManagementError(
                f"cannot connect to {self.socket}: {exc.strerror or exc}",
                remedy="run as the user who runs the relay, or as root",
            ) from exc

    @property
    def socket(self) -> Path:
        """The Unix socket of the management API."""
        return local_socket(self.state_dir, MANAGEMENT_SOCKET)


@attrs.frozen(kw_only=True)
class UrlAddress(Value):
    """A relay that serves its management API over TCP."""

    url: ManagementUrl
    authorization: Secret | None
    #: The pin of the server's certificate; None means that CA and host name are verified instead.
    pin: str | None = None
    #: A PEM file with the CA that has issued the certificate, or with the certificate itself; None means the CAs of
    #: the system.
    ca_file: Path | None = None

    @property
    def host(self) -> str:
        """See `Address.host`."""
        return self.url.host_header

    @property
    def prefix(self) -> str:
        """See `Address.prefix`."""
        return self.url.prefix

    async def connect(self) -> trio.abc.Stream:
        """See `Address.connect`."""
        context = management_client_context(self.pin, ca_file=self.ca_file) if self.url.uses_tls else None
        try:
            stream = await open_tcp(self.url.host, self.url.port)
        except socket.gaierror as exc:
            raise ManagementError(
                f"the host of {self.url} cannot be found: {exc.strerror or exc}",
                remedy="check the name in --management",
            ) from exc
        except OSError as exc:
            usual = "check the URL, whether the relay is running with --management ADDR:PORT, and firewalls"
            raise ManagementError(
                f"cannot connect to {self.url}: {text_or(exc, _why(exc))}", remedy=remedy_or(exc, usual)
            ) from exc
        return stream if context is None else await self._secure(stream, context)

    async def _secure(self, stream: trio.SocketStream, context: ssl.SSLContext) -> TLSStream:
        tls = TLSStream(stream, context, server_hostname=self.url.host)
        try:
            await tls.do_handshake()
            if self.pin is not None:
                self._check_pin(tls, self.pin)
        except TLSHandshakeError as exc:
            await trio.aclose_forcefully(tls)
            if exc.untrusted is not None:
                raise RelayIdentityError(
                    f"the certificate of {self.url} is not trusted: {exc.untrusted}",
                    remedy="if the certificate is self-signed or from your own CA, give --management-ca F, or "
                    "--management-pin with the pin that the relay logs (management.listening)",
                ) from exc
            raise ManagementError(
                f"no TLS with {self.url}: {exc}", remedy="check that this is the address of the management API"
            ) from exc
        except BaseException:
            await trio.aclose_forcefully(tls)
            raise
        return tls

    def _check_pin(self, tls: TLSStream, pin: str) -> None:
        try:
            actual = spki_pin(tls.getpeercert(binary_form=True) or b"")
        except ValueError as exc:
            raise RelayIdentityError(f"the certificate of {self.url} is not usable") from exc
        if actual != pin:
            raise RelayIdentityError(
                f"the public key of {self.url} has the pin {actual}, and not {pin}",
                remedy="if the relay's certificate for the management API was replaced, give its new pin, which the "
                "relay logs; otherwise something else answers at this address",
            )


def _why(exc: OSError) -> str:
    """Return the error of the operating system; if there were several attempts, that of the first one."""
    causes = exc.__cause__
    if exc.strerror is None and isinstance(causes, ExceptionGroup) and isinstance(causes.exceptions[0], OSError):
        return _why(causes.exceptions[0])
    return exc.strerror or str(exc)
