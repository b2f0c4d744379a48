"""The sink of tamper-evident files."""

from __future__ import annotations

from collections.abc import Sequence

from ...events.audit import AuditCheckpoint, AuditFilesOpened, AuditFilesRecovered
from ...events.base import Event
from ..directory import AuditDirectory
from ..record import Record
from .sink import SinkKind

__all__ = ["FileSink"]


class FileSink:
    """Writes records to an audit directory.

    Args:
        directory: the directory.
        name: its path, for messages.
    """

    kind = SinkKind.FILE
    notices_loss = True
    tick_seconds = 5.0

    def __init__(self, directory: AuditDirectory, name: str) -> None:
        self.directory = directory
        self.name = name

    def open(self) -> Sequence[Event]:
        """See `Sink.open`."""
        before = self.directory.signed
        opened = self.directory.open()
        events: list[Event] = [AuditFilesOpened(directory=self.name, key=str(opened.key), is_new=opened.is_new)]
        if opened.removed_bytes or opened.unsigned_from is not None:
            events.append(
                AuditFilesRecovered(
                    directory=self.name,
                    removed_bytes=opened.removed_bytes,
                    unsigned_from=opened.unsigned_from or 0,
                )
            )
        return [*events, *self._checkpoint(before)]

    def write(self, records: Sequence[Record]) -> Sequence[Event]:
        """See `Sink.write`. The records are on the disk when this returns."""
        before = self.directory.signed
        # Checkpoints are for the other sinks: here, each would be the reason for the next one.
        own = [record for record in records if record.event != AuditCheckpoint.name]
        if own:
            self.directory.append(own)
        return self._checkpoint(before)

    def tick(self) -> Sequence[Event]:
        """See `Sink.tick`."""
        before = self.directory.signed
        self.directory.tick()
        return self._checkpoint(before)

    def _checkpoint(self, before: object) -> Sequence[Event]:
        signed = self.directory.signed
        if signed is None or signed == before:
            return ()
        event = AuditCheckpoint(
            directory=self.name,
            log=signed.log_id,
            last=signed.seq,
            head=signed.head,
            signed_at=signed.at,
            key=signed.key,
            signature=signed.signature,
        )
        return (event,)

    def close(self) -> None:
        """See `Sink.close`."""
        self.directory.close()
