"""The interface of sinks."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

from ...events.base import Event
from ..record import Record

__all__ = ["Sink", "SinkKind"]


class SinkKind(enum.StrEnum):
    """The kinds of sinks, as ``--audit-required`` and the machine's policy name them. `STDERR` cannot be required."""

    FILE = "file"
    JOURNAL = "journal"
    SYSLOG = "syslog"
    EVENT_LOG = "eventlog"
    STDERR = "stderr"


class Sink(Protocol):
    """A place to which records are written.

    All methods block, and are called one at a time, in a thread. `open` is called once, and the others afterwards.
    """

    @property
    def kind(self) -> SinkKind:
        """The kind of the sink."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    @property
    def notices_loss(self) -> bool:
        """Whether `write` fails if the sink does not get the records. Otherwise it cannot be required."""

    @property
    def tick_seconds(self) -> float | None:
        """How often `tick` has to be called; None: never."""

    def open(self) -> Sequence[Event]:
        """Prepare the sink. Returns events to publish.

        Raises:
            ConfigurationError: it cannot be used until somebody corrects something.
        """

    def write(self, records: Sequence[Record]) -> Sequence[Event]:
        """Write records, at least one. When this returns, the sink has them. Returns events to publish.

        Raises:
            OSError, ConfigurationError: it cannot be written at the moment. All records are passed again later.
        """

    def tick(self) -> Sequence[Event]:
        """Do what is due. Returns events to publish.

        Raises:
            OSError, ConfigurationError: as in `write`.
        """

    def close(self) -> None:
        """Close the sink.

        Raises:
            OSError: what was due at the end could not be written.
        """
