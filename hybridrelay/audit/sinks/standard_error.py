"""The sink of standard error: each record is a JSON object in a line of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from ...events.base import Event
from ..chain import encodable, time_text
from ..record import Record
from .sink import SinkKind

__all__ = ["StandardErrorSink", "json_line"]


def json_line(record: Record) -> str:
    """Return a record as a JSON object with its line end. It has the fields of a line in an audit file, except
    ``seq`` and ``prev``."""
    fields = {name: encodable(value) for name, value in record.fields.items()}
    return msgspec.json.encode({"at": time_text(record.at), "event": record.event, **fields}).decode() + "\n"


class StandardErrorSink:
    """Writes records with a function that never blocks.

    Args:
        write: writes text to standard error, in order with the log.
    """

    kind = SinkKind.STDERR
    name = "stderr"
    notices_loss = False
    tick_seconds = None

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def open(self) -> Sequence[Event]:
        """See `Sink.open`."""
        return ()

    def write(self, records: Sequence[Record]) -> Sequence[Event]:
        """See `Sink.write`."""
        self._write("".join(map(json_line, records)))
        return ()

    def tick(self) -> Sequence[Event]:
        """See `Sink.tick`."""
        return ()

    def close(self) -> None:
        """See `Sink.close`."""
