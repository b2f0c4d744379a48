"""The sink of systemd's journal: its native protocol, one datagram for each record.

Each record has the fields MESSAGE, MESSAGE_ID (a fixed UUID for each event), PRIORITY, SYSLOG_IDENTIFIER, and
HYBRIDRELAY_EVENT, HYBRIDRELAY_CONNECTION and so on: the fields of the event.
"""

from __future__ import annotations

import re
import socket
import struct
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...events.base import Event
from ...streams.unix_sockets import short_path
from ..chain import FieldValue
from ..record import Record
from .priority import priority_of
from .sink import SinkKind

__all__ = ["JournalSink", "journal_datagram", "message_id"]

SOCKET = Path("/run/systemd/journal/socket")
#: The namespace of MESSAGE_ID. It never changes.
_NAMESPACE = uuid.UUID("5d2a0c58-6f0e-4b57-9d3a-2f8e6f0b7c11")
#: How long the journal may take to accept a record (seconds).
_SECONDS = 5.0
#: The longest name of a field that the journal accepts.
_MAX_NAME = 64


def message_id(event: str) -> str:
    """Return the MESSAGE_ID of an event: 32 hexadecimal digits."""
    return uuid.uuid5(_NAMESPACE, event).hex


def journal_datagram(record: Record) -> bytes:
    """Return a record in the journal's native protocol."""
    fields: dict[str, FieldValue] = {
        "MESSAGE": record.text or record.event,
        "MESSAGE_ID": message_id(record.event),
        "PRIORITY": str(priority_of(record.level)),
        "SYSLOG_IDENTIFIER": "hybridrelay-audit",
        "HYBRIDRELAY_EVENT": record.event,
        **_prefixed(record.fields),
    }
    return b"".join(_field(name, value) for name, value in fields.items())


def _prefixed(fields: Mapping[str, FieldValue]) -> dict[str, FieldValue]:
    return {
        "HYBRIDRELAY_" + re.sub("[^A-Z0-9_]", "_", name.upper())[: _MAX_NAME - 12]: value
        for name, value in fields.items()
    }


def _field(name: str, value: FieldValue) -> bytes:
    text = ",".join(value) if isinstance(value, list) else str(value)
    data = text.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)


class JournalSink:
    """Sends records to the journal.

    Args:
        path: the journal's socket.
    """

    kind = SinkKind.JOURNAL
    name = "journal"
    notices_loss = True
    tick_seconds = None

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def open(self) -> Sequence[Event]:
        """See `Sink.open`."""
        return ()

    def write(self, records: Sequence[Record]) -> Sequence[Event]:
        """See `Sink.write`."""
        for record in records:
            self._send(journal_datagram(record))
        return ()

    def _send(self, data: bytes) -> None:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.settimeout(_SECONDS)
                with short_path(self._path) as name:
                    self._socket.connect(name)
            self._socket.send(data)
        except OSError as exc:
            self.close()
            if exc.filename is None and exc.errno is not None:
                raise OSError(exc.errno, exc.strerror, str(self._path)) from exc
            raise

    def tick(self) -> Sequence[Event]:
        """See `Sink.tick`."""
        return ()

    def close(self) -> None:
        """See `Sink.close`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
