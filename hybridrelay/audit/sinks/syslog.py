"""The sink of syslog servers: RFC 5424, over UDP (RFC 5426), TCP (RFC 6587, octet counting) or TLS (RFC 5425)."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

from ...events.base import Event, Level
from ..chain import FieldValue, time_text
from ..record import Record
from .priority import priority_of
from .sink import SinkKind
from .tls_connection import TLSConnection
from .unconfirmed import Unconfirmed

__all__ = ["SYSLOG_PORTS", "SyslogSink", "SyslogTransport", "syslog_message"]

SyslogTransport: TypeAlias = Literal["udp", "tcp", "tls"]

#: The port of each transport.
SYSLOG_PORTS: dict[SyslogTransport, int] = {"udp": 514, "tcp": 601, "tls": 6514}
#: The facility "log audit".
_FACILITY = 13
#: The id of the structured data. 32473 is the enterprise number for examples (RFC 5612), since the project has none.
_DATA_ID = "hybridrelay@32473"
#: How long connecting and sending may take (seconds).
_SECONDS = 5.0
#: How often to look whether the server has closed the connection (seconds).
_TICK_SECONDS = 2.5
#: How much a server may send on one connection (bytes). Syslog servers send nothing; some send a greeting, and TLS
#: needs a little.
_MAX_IGNORED = 1024 * 1024
#: The longest message over UDP (bytes). Longer ones are cut off: they lose their text first, and then fields.
_MAX_DATAGRAM = 2048


def syslog_message(record: Record, *, host: str, process: int) -> bytes:
    """Return a record as a message of RFC 5424: all fields are in its structured data, and its text is for people.

    Args:
        record: the record.
        host: this machine's name.
        process: the program's process id.
    """
    priority = _FACILITY * 8 + priority_of(record.level)
    data = "".join(f' {_name(name, 32)}="{_value(value)}"' for name, value in record.fields.items())
    header = (
        f"<{priority}>1 {time_text(record.at)} {_name(host, 255)} hybridrelay {process} {_name(record.event, 32)}"
    )
    # The text begins with the byte-order mark, which says that it is UTF-8.
    return f"{header} [{_DATA_ID}{data}] \ufeff{record.text or record.event}".encode("utf-8", "backslashreplace")


def _name(text: str, limit: int) -> str:
    """Return a text as a name: printable ASCII without spaces, quotes and so on."""
    return re.sub(r'[^!-~]|[="\]]', "_", text)[:limit] or "-"


def _value(value: FieldValue) -> str:
    text = ",".join(value) if isinstance(value, list) else str(value)
    return re.sub(r'(["\\\]])', r"\\\1", text)


class SyslogSink:
    """Sends records to a syslog server.

    Syslog has no acknowledgements, not even over TCP and TLS. If the server ends a connection, what was sent last is
    sent again on the next one, and a server that does so repeatedly counts as failed; see `unconfirmed`. UDP loses
    messages without notice.

    Args:
        transport: ``udp``, ``tcp`` or ``tls``.
        host: the server's name or address. With TLS, its certificate has to be for this name.
        port: the server's port.
        trust: makes a context for TLS trust the authorities that may have issued the server's certificate; None means
            those of the system. Called before each connection, because their certificates may have been replaced.
        own_name: the name of this machine in the messages.
    """

    kind = SinkKind.SYSLOG

    def __init__(
        self,
        transport: SyslogTransport,
        host: str,
        port: int,
        *,
        trust: Callable[[ssl.SSLContext], None] | None = None,
        own_name: str | None = None,
    ) -> None:
        self.transport = transport
        self.notices_loss = transport != "udp"
        self.tick_seconds = None if transport == "udp" else _TICK_SECONDS
        self.name = f"syslog+{transport}://{f'[{host}]' if ':' in host else host}:{port}"
        self._host = host
        self._port = port
        self._trust = trust
        self._own_name = own_name or socket.gethostname()
        self._datagrams: socket.socket | None = None
        self._connection: socket.socket | TLSConnection | None = None
        #: Finds out whether the server has ended the connection. None exactly if there is no connection.
        self._ending: _Ending | None = None
        self._unconfirmed = Unconfirmed()

    def open(self) -> Sequence[Event]:
        """See `Sink.open`."""
        if self._trust is not None:
            self._context()
        return ()

    def _context(self) -> ssl.SSLContext:
        if self._trust is None:
            return ssl.create_default_context()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._trust(context)
        return context

    def write(self, records: Sequence[Record]) -> Sequence[Event]:
        """See `Sink.write`."""
        messages = [self._message(record) for record in records]
        with self._disconnecting():
            if self.transport == "udp":
                self._send_datagrams(messages)
            else:
                self._send_stream(b"".join(map(_framed, messages)))
        return ()

    def _message(self, record: Record) -> bytes:
        return syslog_message(record, host=self._own_name, process=os.getpid())

    @contextlib.contextmanager
    def _disconnecting(self) -> Iterator[None]:
        """Close the connection if the body fails. Every error is an OSError then."""
        try:
            yield
        except (OSError, ValueError) as exc:
            self._disconnect()
            if isinstance(exc, OSError):
                raise
            raise OSError(0, str(exc)) from exc  # a name that is invalid in DNS

    def _send_datagrams(self, messages: Sequence[bytes]) -> None:
        if self._datagrams is None:
            family, kind, number, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
            self._datagrams = socket.socket(family, kind, number)
            self._datagrams.settimeout(_SECONDS)
            self._datagrams.connect(address)
        for message in messages:
            self._datagrams.send(_cut(message, _MAX_DATAGRAM))

    def _send_stream(self, data: bytes) -> None:
        """Send data, and before that what may have been lost with an earlier connection. Raises OSError."""
        self._look()
        if is_first := self._connection is None:
            while (sent_at := self._begin(data)) is None:
                pass
        else:
            sent_at = time.monotonic()
            self._connection.sendall(data)
        self._unconfirmed.sent(data, sent_at, is_first=is_first)

    def _look(self) -> None:
        """Close the connection if the server has ended it. Raises OSError if that is a failure of the server."""
        if self._ending is not None:
            if self._ending.has_come():
                self._ended(self._unconfirmed.ended())
            else:
                self._unconfirmed.alive(time.monotonic())

    def _begin(self, data: bytes) -> float | None:
        """Send data as the first on a new connection. Returns when it was sent, if the server has kept the connection
        open for a moment; otherwise None. Raises OSError, also if the server has failed."""
        self._connection = self._connect()
        self._ending = _Ending(self._connection)
        sent_at = time.monotonic()
        self._connection.sendall(self._unconfirmed.data + data)
        if not self._ending.comes_within(self._unconfirmed.watch_seconds):
            return sent_at
        self._ended(self._unconfirmed.ended(during=True))
        return None

    def _ended(self, is_failure: bool) -> None:
        self._disconnect()
        if is_failure:
            raise ConnectionResetError(
                errno.ECONNRESET, "the server closes connections soon after records are sent, and may not read them"
            )

    def _connect(self) -> socket.socket | TLSConnection:
        sock = socket.create_connection((self._host, self._port), timeout=_SECONDS)
        if self.transport != "tls":
            return sock
        try:
            context = self._context()
        except BaseException:
            sock.close()
            raise
        return TLSConnection(sock, context, self._host, _SECONDS)

    def tick(self) -> Sequence[Event]:
        """See `Sink.tick`. Sends again what may have been lost with a connection that has ended since; or else a
        keepalive message, if one is needed."""
        with self._disconnecting():
            if not self._send_again() and self._connection is not None and self._unconfirmed.needs_keepalive:
                self._connection.sendall(_framed(self._message(_keepalive(time.time()))))
        return ()

    def _send_again(self) -> bool:
        """If the connection has ended, send again what may have been lost with it.

        Returns:
            Whether something was sent.

        Raises:
            OSError: see `_send_stream`.
        """
        self._look()
        if self._connection is not None or not self._unconfirmed:
            return False
        self._send_stream(b"")
        return True

    def close(self) -> None:
        """See `Sink.close`."""
        with self._disconnecting():
            self._send_again()
        self._unconfirmed = Unconfirmed()
        self._disconnect()

    def _disconnect(self) -> None:
        for one in (self._datagrams, self._connection):
            if one is not None:
                one.close()
        self._datagrams = self._connection = self._ending = None


def _framed(message: bytes) -> bytes:
    return b"%d %s" % (len(message), message)


def _keepalive(now: float) -> Record:
    """Return what is sent so that the server does not consider the connection idle; see `unconfirmed`."""
    text = "The connection is kept open until the server has had the time to read the latest records"
    return Record(now, "syslog.keepalive", {}, Level.DEBUG, text)


def _cut(message: bytes, limit: int) -> bytes:
    return message if len(message) <= limit else message[:limit].decode("utf-8", "ignore").encode()


class _Ending:
    """Finds out whether a server has ended a connection. Servers send nothing, except what TLS needs, so what arrives
    is dropped.

    Args:
        connection: the connection to the server.
    """

    def __init__(self, connection: socket.socket | TLSConnection) -> None:
        self._connection = connection
        #: How much has arrived.
        self._ignored = 0

    def has_come(self) -> bool:
        """Return whether the server has ended the connection.

        Raises:
            OSError: it has sent too much, perhaps endlessly.
        """
        connection = self._connection
        while self._ignored <= _MAX_IGNORED:
            try:
                received = connection.receive() if isinstance(connection, TLSConnection) else _receive(connection)
            except OSError:
                return True
            if received is None:
                return False
            if not received:
                return True
            self._ignored += received
        raise OSError(errno.EPROTO, "the server sends data, which a syslog server does not")

    def comes_within(self, seconds: float) -> bool:
        """Wait for the server to end the connection. Returns whether it has. Raises OSError as `has_come`."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0 and selector.select(left):
                if self.has_come():
                    return True
        return False


def _receive(sock: socket.socket) -> int | None:
    """Do what `TLSConnection.receive` does, for TCP without TLS."""
    sock.setblocking(False)
    try:
        return len(sock.recv(4096))
    except BlockingIOError:
        return None
    finally:
        sock.settimeout(_SECONDS)
