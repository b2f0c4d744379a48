"""What sinks receive: the journal, syslog servers, the Windows Event Log, standard error."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn

import msgspec
import pytest

from hybridrelay.audit.record import Record
from hybridrelay.audit.sinks import syslog, unconfirmed
from hybridrelay.audit.sinks.event_log import EVENT_IDS, OTHER_EVENT_ID, EventLogSink
from hybridrelay.audit.sinks.journal import JournalSink, journal_datagram, message_id
from hybridrelay.audit.sinks.standard_error import StandardErrorSink
from hybridrelay.audit.sinks.syslog import SyslogSink, syslog_message
from hybridrelay.errors import ConfigurationError
from hybridrelay.events import all_events
from hybridrelay.security.pem_files import load_authorities
from hybridrelay.streams.unix_sockets import short_path

from ..certificates import CertificateAuthority
from ..deployments import free_port

RECORD = Record(
    1_700_000_000.25,
    "stream.closed",
    {"connection": "orders", "label": 'a "b" ]\\', "bytes_to_target": 7, "missing": ["x", "y"]},
    10,
    "A stream was closed: connection=orders",
)
WARNING = Record(1.0, "policy.refused", {"label": "Zürich"}, 30, "refused")


def bind(sock: socket.socket, path: Path) -> None:
    with short_path(path) as name:
        sock.bind(name)


class TestJournal:
    """The native protocol."""

    def test_the_fields_of_a_record(self) -> None:
        lines = journal_datagram(RECORD).decode().splitlines()

        assert lines == [
            "MESSAGE=A stream was closed: connection=orders",
            f"MESSAGE_ID={message_id('stream.closed')}",
            "PRIORITY=6",
            "SYSLOG_IDENTIFIER=hybridrelay-audit",
            "HYBRIDRELAY_EVENT=stream.closed",
            "HYBRIDRELAY_CONNECTION=orders",
            'HYBRIDRELAY_LABEL=a "b" ]\\',
            "HYBRIDRELAY_BYTES_TO_TARGET=7",
            "HYBRIDRELAY_MISSING=x,y",
        ]

    def test_the_ids_of_events_never_change(self) -> None:
        assert message_id("stream.opened") == "f43bb646d5fe5b149f97c652fff1a78a"
        assert len({message_id(event.name) for event in all_events()}) == len(all_events())

    def test_a_value_with_a_line_end_cannot_forge_a_field(self) -> None:
        data = journal_datagram(Record(0.0, "stream.closed", {"detail": "a\nPRIORITY=0"}))

        value = b"a\nPRIORITY=0"
        assert data.endswith(b"HYBRIDRELAY_DETAIL\n" + struct.pack("<Q", len(value)) + value + b"\n")

    def test_records_arrive_at_the_journal_with_their_priority(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        sink = JournalSink(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            bind(journal, path)
            journal.settimeout(60)
            sink.write([RECORD, WARNING])
            assert journal.recv(65536) == journal_datagram(RECORD)
            assert b"PRIORITY=4\n" in journal.recv(65536)
        sink.close()

    def test_a_journal_that_is_restarted(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        sink = JournalSink(path)
        for _ in range(2):
            with pytest.raises(OSError, match=re.escape(str(path))):
                sink.write([RECORD])
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
                bind(journal, path)
                journal.settimeout(60)
                sink.write([RECORD])
                assert journal.recv(65536)
            path.unlink()
        sink.close()


class TestSyslogMessages:
    """RFC 5424."""

    def test_a_message_has_the_fields_of_rfc_5424(self) -> None:
        message = syslog_message(RECORD, host="db host", process=77).decode()

        assert message == (
            "<110>1 2023-11-14T22:13:20.250Z db_host hybridrelay 77 stream.closed "
            '[hybridrelay@32473 connection="orders" label="a \\"b\\" \\]\\\\" bytes_to_target="7" missing="x,y"] '
            "\ufeffA stream was closed: connection=orders"
        )

    def test_the_severity_is_that_of_the_level(self) -> None:
        assert syslog_message(WARNING, host="h", process=1).startswith(b"<108>1 ")
        assert syslog_message(Record(0.0, "audit.sink-failed", {}, 40), host="h", process=1).startswith(b"<107>1 ")

    def test_names_are_shortened_and_their_odd_characters_replaced(self) -> None:
        message = syslog_message(Record(0.0, "a" * 50, {'x="]\u00e9 ': "\udce4"}), host="", process=1)
        assert message.startswith(b"<110>1 1970-01-01T00:00:00.000Z - hybridrelay 1 " + b"a" * 32 + b" [hybridrelay@")
        assert b'x_____="\\udce4"' in message


class Server:
    """A syslog server over TCP or TLS, which keeps what it gets."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.got = bytearray()
        #: What it sends first, and again and again if `endless`.
        self.greeting = b""
        self.endless = threading.Event()
        #: False: it closes each connection at once.
        self.reads = True
        self.connections: list[socket.socket] = []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        self.changed = threading.Condition()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.read, args=(connection,), daemon=True).start()

    def read(self, connection: socket.socket) -> None:
        try:
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            if not self.reads:
                return
            with self.changed:
                self.connections.append(connection)
            connection.sendall(self.greeting)
            # One thread, because the TLS of Python 3.11 does not let two use a connection at the same time.
            while not self.endless.is_set():
                decrypted = connection.pending() if isinstance(connection, ssl.SSLSocket) else 0
                if not decrypted and not select.select([connection], [], [], 0.02)[0]:
                    continue
                data = connection.recv(65536)
                if not data:
                    return
                with self.changed:
                    self.got += data
                    self.changed.notify_all()
            while True:
                connection.sendall(bytes(65536))
        except (OSError, ValueError):  # ValueError: `select` is given a connection that was closed
            pass
        finally:
            connection.close()

    def send_without_end(self) -> None:
        self.endless.set()

    def wait(self, data: bytes) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.got.endswith(data), 10)

    def hang_up(self) -> None:
        with self.changed:
            for connection in self.connections:
                connection.shutdown(socket.SHUT_RDWR)
            self.connections.clear()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.endless.set()
        with self.changed:
            for connection in self.connections:
                connection.close()
        self.thread.join(10)


@contextmanager
def server(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    made = Server(context)
    try:
        yield made
    finally:
        made.close()


def write_again_and_again(sink: SyslogSink) -> NoReturn:
    while True:
        sink.write([WARNING])


def framed(*records: Record) -> bytes:
    messages = [syslog_message(one, host="db1", process=os.getpid()) for one in records]
    return b"".join(str(len(one)).encode() + b" " + one for one in messages)


@pytest.fixture
def tls_files(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """The context of a server, and the file with its authority."""
    authority = CertificateAuthority()
    certificate, key = authority.issue("127.0.0.1")
    (tmp_path / "server.pem").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    return context, authority.write(tmp_path / "ca.pem")


class TestSyslogServers:
    """Over real sockets."""

    def test_records_arrive_over_udp_and_long_ones_are_cut(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as got:
            got.bind(("127.0.0.1", 0))
            got.settimeout(60)
            sink = SyslogSink("udp", "127.0.0.1", got.getsockname()[1], own_name="db1")
            long = Record(0.0, "stream.closed", {}, text="ü" * 5000)
            sink.write([RECORD, long])
            assert b" db1 hybridrelay " in got.recv(65536)
            assert len(got.recv(65536).decode()) > 1000
            sink.close()

    def test_tcp_with_octet_counting(self) -> None:
        with server() as logs:
            sink = SyslogSink("tcp", "127.0.0.1", logs.port, own_name="db1")
            assert sink.name == f"syslog+tcp://127.0.0.1:{logs.port}"
            sink.write([RECORD, WARNING])
            logs.wait(framed(RECORD, WARNING))
            sink.close()

    def test_a_connection_that_the_server_has_closed_is_opened_again(self) -> None:
        with server() as logs:
            sink = SyslogSink("tcp", "127.0.0.1", logs.port, own_name="db1")
            sink.write([RECORD])
            logs.wait(framed(RECORD))
            logs.hang_up()
            sink.write([WARNING])
            logs.wait(framed(WARNING))
            sink.close()

    def test_records_that_may_not_have_been_read_are_sent_again(self) -> None:
        with server() as logs:
            sink = SyslogSink("tcp", "127.0.0.1", logs.port, own_name="db1")
            sink.write([RECORD])
            logs.wait(framed(RECORD))
            logs.hang_up()
            sink.write([WARNING])
            logs.wait(framed(RECORD, RECORD, WARNING))
            sink.close()

    @pytest.mark.parametrize("ends", ["tick", "close"])
    def test_they_are_sent_again_although_there_are_no_new_ones(self, ends: str) -> None:
        with server() as logs:
            sink = SyslogSink("tcp", "127.0.0.1", logs.port, own_name="db1")
            assert sink.tick_seconds is not None
            sink.write([RECORD])
            logs.wait(framed(RECORD))
            logs.hang_up()
            sink.tick() if ends == "tick" else sink.close()
            logs.wait(framed(RECORD, RECORD))
            sink.close()

    def test_after_an_early_end_a_connection_is_kept_from_being_idle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with server() as logs:
            sink = SyslogSink("tcp", "127.0.0.1", logs.port, own_name="db1")
            sink.write([RECORD])
            logs.wait(framed(RECORD))
            sink.tick()
            logs.hang_up()
            sink.tick()
            logs.wait(framed(RECORD, RECORD))
            for _ in range(2):
                sink.tick()
            sink.write([WARNING])
            logs.wait(framed(WARNING))
            monkeypatch.setattr(unconfirmed, "CONFIRMED_SECONDS", 0.0)
            sink.tick()
            sink.write([WARNING])
            logs.wait(framed(WARNING, WARNING))
            sink.close()
        repeated = len(framed(RECORD, RECORD))
        assert logs.got[:repeated] == framed(RECORD, RECORD)
        keepalive = rb"\d+ <110>1 \S+ db1 hybridrelay \d+ syslog\.keepalive \[\S+\] [^<]*"
        assert re.fullmatch(b"(?:%s){2}" % keepalive, logs.got[repeated : -len(framed(WARNING, WARNING))])

    def test_what_was_sent_long_ago_is_not_sent_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unconfirmed, "CONFIRMED_SECONDS", 0.0)
        with server() as logs:
            sink = SyslogSink("tcp", "127.0.0.1", logs.port, own_name="db1")
            for _ in range(4):  # a server may end idle connections, as often as it likes
                sink.write([RECORD])
                sink.tick()
                logs.hang_up()
                sink.tick()
            logs.wait(framed(*[RECORD] * 4))
            sink.close()
        assert logs.got == framed(*[RECORD] * 4)

    @pytest.mark.parametrize("transport", ["tcp", "tls"])
    def test_a_server_that_closes_connections_without_reading_has_failed(
        self,
        transport: Literal["tcp", "tls"],
        tls_files: tuple[ssl.SSLContext, Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As a load balancer does whose servers do not run. When they run again, they get everything once."""
        monkeypatch.setattr(unconfirmed, "WATCH_SECONDS", (60.0,))
        context, ca_file = tls_files
        with server(context if transport == "tls" else None) as logs:
            logs.reads = False
            sink = SyslogSink(
                transport, "127.0.0.1", logs.port, trust=partial(load_authorities, ca_file=ca_file), own_name="db1"
            )
            for _ in range(3):
                with pytest.raises(OSError):
                    sink.write([RECORD])
            monkeypatch.setattr(unconfirmed, "WATCH_SECONDS", (0.1,))
            logs.reads = True
            sink.write([RECORD])
            logs.wait(framed(RECORD))
            sink.close()
        assert logs.got == framed(RECORD)

    def test_a_server_that_fails_after_it_was_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with server() as logs:
            sink = SyslogSink("tcp", "127.0.0.1", logs.port, own_name="db1")
            sink.write([RECORD])
            logs.wait(framed(RECORD))
            monkeypatch.setattr(unconfirmed, "WATCH_SECONDS", (60.0,))
            logs.reads = False
            logs.hang_up()
            with pytest.raises(OSError):
                sink.tick()
            monkeypatch.setattr(unconfirmed, "WATCH_SECONDS", (0.1,))
            logs.reads = True
            sink.tick()
            logs.wait(framed(RECORD, RECORD))
            sink.close()

    @pytest.mark.parametrize("transport", ["tcp", "tls"])
    def test_a_server_that_sends_without_end(
        self, transport: Literal["tcp", "tls"], tls_files: tuple[ssl.SSLContext, Path]
    ) -> None:
        context, ca_file = tls_files
        with server(context if transport == "tls" else None) as logs:
            sink = SyslogSink(
                transport, "127.0.0.1", logs.port, trust=partial(load_authorities, ca_file=ca_file), own_name="db1"
            )
            sink.write([RECORD])
            logs.wait(framed(RECORD))
            logs.send_without_end()
            for _ in range(2):  # the sink connects again, and the server goes on
                with pytest.raises(OSError, match="the server sends data"):
                    write_again_and_again(sink)
            with contextlib.suppress(OSError):  # it sends the last records again
                sink.close()

    def test_a_server_that_says_something_first(self) -> None:
        with server() as logs:
            logs.greeting = b"hello " * 1000
            sink = SyslogSink("tcp", "127.0.0.1", logs.port, own_name="db1")
            for record in (RECORD, WARNING):
                sink.write([record])
                logs.wait(framed(record))
            assert len(logs.connections) == 1
            sink.close()

    def test_a_server_that_is_not_there(self) -> None:
        sink = SyslogSink("tcp", "127.0.0.1", free_port())
        with pytest.raises(ConnectionRefusedError):
            sink.write([RECORD])

    def test_a_name_that_is_not_valid(self) -> None:
        with pytest.raises(OSError, match=r"encoding|Name or service|not known"):
            SyslogSink("tcp", "a" * 70 + ".example", 514).write([RECORD])

    def test_records_arrive_over_one_connection_with_tls(self, tls_files: tuple[ssl.SSLContext, Path]) -> None:
        context, ca_file = tls_files
        with server(context) as logs:
            sink = SyslogSink(
                "tls", "127.0.0.1", logs.port, trust=partial(load_authorities, ca_file=ca_file), own_name="db1"
            )
            sink.open()
            sink.write([RECORD])
            logs.wait(framed(RECORD))
            sink.write([WARNING])
            logs.wait(framed(RECORD, WARNING))
            assert len(logs.connections) == 1
            sink.close()

    @pytest.mark.parametrize("saved_as", ["mark and CRLF", "UTF-16", "CR", "a comment in Latin-1"])
    def test_the_certificates_are_read_however_an_editor_has_saved_them(
        self, tls_files: tuple[ssl.SSLContext, Path], saved_as: str
    ) -> None:
        context, ca_file = tls_files
        text = ca_file.read_text()
        ca_file.write_bytes({
            "mark and CRLF": b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
            "UTF-16": ("\ufeff" + text).encode("utf-16-le"),
            "CR": text.replace("\n", "\r").encode(),
            "a comment in Latin-1": b"subject = M\xfcnchen\n" + text.encode(),
        }[saved_as])  # fmt: skip
        with server(context) as logs:
            sink = SyslogSink("tls", "127.0.0.1", logs.port, trust=partial(load_authorities, ca_file=ca_file))
            sink.open()
            sink.write([RECORD])
            with logs.changed:
                assert logs.changed.wait_for(lambda: b"stream.closed" in logs.got, 10)
            sink.close()

    def test_a_tls_server_that_sends_tickets_without_end(self, tls_files: tuple[ssl.SSLContext, Path]) -> None:
        """OpenSSL would read all of them in one call."""
        context, ca_file = tls_files
        context.num_tickets = 20_000
        with server(context) as logs:
            sink = SyslogSink(
                "tls", "127.0.0.1", logs.port, trust=partial(load_authorities, ca_file=ca_file), own_name="db1"
            )
            with pytest.raises(OSError, match=r"the server sends (data|too much)"):
                write_again_and_again(sink)
            with contextlib.suppress(OSError):  # it sends the last records again
                sink.close()

    def test_a_server_that_always_sends_something(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Waiting for the end of the connection takes no longer than it should, although there is always input."""
        monkeypatch.setattr(syslog, "_receive", lambda _: None)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"x")
            assert not syslog._Ending(ours).comes_within(0.05)

    def test_a_tls_server_that_sends_a_few_tickets(self, tls_files: tuple[ssl.SSLContext, Path]) -> None:
        context, ca_file = tls_files
        context.num_tickets = 10
        with server(context) as logs:
            sink = SyslogSink(
                "tls", "127.0.0.1", logs.port, trust=partial(load_authorities, ca_file=ca_file), own_name="db1"
            )
            for _ in range(5):
                sink.write([RECORD])
            logs.wait(framed(RECORD) * 5)
            assert len(logs.connections) == 1
            logs.hang_up()
            sink.write([WARNING])
            logs.wait(framed(WARNING))
            sink.close()

    def test_a_tls_server_that_says_nothing(
        self, tls_files: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(syslog, "_SECONDS", 0.1)
        _, ca_file = tls_files
        with server() as logs:  # it accepts, and answers nothing
            with pytest.raises(TimeoutError):
                SyslogSink("tls", "127.0.0.1", logs.port, trust=partial(load_authorities, ca_file=ca_file)).write(
                    [RECORD]
                )

    def test_tls_with_a_certificate_of_somebody_else(self, tls_files: tuple[ssl.SSLContext, Path]) -> None:
        context, _ = tls_files
        with server(context) as logs:
            with pytest.raises(ssl.SSLCertVerificationError):
                SyslogSink("tls", "127.0.0.1", logs.port).write([RECORD])
            assert logs.got == b""

    def test_a_file_without_certificates(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("nothing")
        (tmp_path / "large.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n" * (1 << 17))
        for name in ("ca.pem", "large.pem", "missing.pem"):
            with pytest.raises(ConfigurationError, match=name):
                SyslogSink("tls", "127.0.0.1", 1, trust=partial(load_authorities, ca_file=tmp_path / name)).open()


class TestEventLog:
    """The Windows Event Log, with recorded calls."""

    def test_an_entry_has_the_type_the_number_the_text_and_the_fields_of_its_record(self) -> None:
        calls: list[tuple[int, int, str]] = []
        sink = EventLogSink(lambda *call: calls.append(call))
        sink.open()
        sink.write([RECORD, WARNING, Record(0.0, "reload.failed", {"detail": "a\0b"}, 40, "failed: a\0b")])

        assert [(kind, id_) for kind, id_, _ in calls] == [(4, 1001), (2, 1002), (1, OTHER_EVENT_ID)]
        text, _, data = calls[0][2].partition("\r\n\r\n")
        assert text == RECORD.text
        assert json.loads(data)["label"] == RECORD.fields["label"]
        assert "\0" not in calls[2][2]

    def test_the_ids_are_those_of_events_and_differ(self) -> None:
        assert len(set(EVENT_IDS.values())) == len(EVENT_IDS)
        assert set(EVENT_IDS) <= {event.name for event in all_events()}

    @pytest.mark.skipif(sys.platform == "win32", reason="for systems without it")
    def test_it_is_only_on_windows(self) -> None:
        with pytest.raises(ConfigurationError, match="only on Windows"):
            EventLogSink().open()


def test_standard_error_gets_a_json_object_in_each_line() -> None:
    written: list[str] = []
    StandardErrorSink(written.append).write([RECORD, Record(0.0, "stream.closed", {"detail": "\udce4\n"})])

    first, second = "".join(written).splitlines()
    assert json.loads(first) == {"at": "2023-11-14T22:13:20.250Z", "event": "stream.closed", **RECORD.fields}
    assert msgspec.json.decode(second)["detail"] == "\\udce4\n"
