"""The sink of the Windows Event Log.

The ids of events are in a table, so that they never change. The source ``HybridRelay`` has to be in the registry,
below ``SYSTEM\\CurrentControlSet\\Services\\EventLog\\Application``. Without it, Windows shows the text with a note
that it lacks a description.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ...errors import ConfigurationError
from ...events.base import Event
from ..record import Record
from .sink import SinkKind
from .standard_error import json_line

__all__ = ["EVENT_IDS", "OTHER_EVENT_ID", "EventLogSink", "ReportEvent", "event_log_entry"]

#: Writes an entry: its type, its id, and its text.
ReportEvent = Callable[[int, int, str], None]

SOURCE: Final = "HybridRelay"
#: Types of entries.
_ERROR, _WARNING, _INFORMATION = 1, 2, 4
#: The ids of events. All others have `OTHER_EVENT_ID`.
EVENT_IDS: Mapping[str, int] = {
    "stream.opened": 1000,
    "stream.closed": 1001,
    "stream.not-connected": 1003,
    "stream.still-open": 1004,
    "policy.refused": 1002,
    "registration.succeeded": 1010,
    "registration.ended": 1011,
    "session.opened": 1012,
    "session.ended": 1013,
    "deny-list.loaded": 1020,
    "policy.not-reloaded": 1021,
    "key.changed": 1030,
    "key.revoked": 1031,
    "key.in-use": 1032,
    "program.started": 1040,
    "program.stopped": 1041,
    "audit.sink-failed": 1050,
    "audit.checkpoint": 1051,
}
OTHER_EVENT_ID: Final = 1099
#: The most characters of an entry's text.
_MAX_TEXT = 31_000


def event_log_entry(record: Record) -> tuple[int, int, str]:
    """Return the type, the id and the text of a record's entry. The text is a line for people, and JSON."""
    kind = _ERROR if record.level >= 40 else _WARNING if record.level >= 30 else _INFORMATION
    text = f"{record.text or record.event}\r\n\r\n{json_line(record).rstrip()}"
    return kind, EVENT_IDS.get(record.event, OTHER_EVENT_ID), text[:_MAX_TEXT].replace("\0", " ")


class EventLogSink:
    """Writes records to the Windows Event Log.

    Args:
        report: writes an entry; None means the function of Windows.
    """

    kind = SinkKind.EVENT_LOG
    name = "eventlog"
    notices_loss = True
    tick_seconds = None

    def __init__(self, report: ReportEvent | None = None) -> None:
        self._report = report

    def open(self) -> Sequence[Event]:
        """See `Sink.open`."""
        if self._report is None:
            self._report = _windows_report_event()
        return ()

    def write(self, records: Sequence[Record]) -> Sequence[Event]:
        """See `Sink.write`."""
        assert self._report is not None
        for record in records:
            self._report(*event_log_entry(record))
        return ()

    def tick(self) -> Sequence[Event]:
        """See `Sink.tick`."""
        return ()

    def close(self) -> None:
        """See `Sink.close`."""


def _windows_report_event() -> ReportEvent:
    """Return the function of Windows.

    Raises:
        ConfigurationError: this is not Windows.
        OSError: Windows refuses.
    """
    if sys.platform == "win32":
        import ctypes
        from ctypes import wintypes

        library = ctypes.WinDLL("advapi32", use_last_error=True)
        register, report_event = library.RegisterEventSourceW, library.ReportEventW
        register.restype = wintypes.HANDLE
        register.argtypes = [wintypes.LPCWSTR, wintypes.LPCWSTR]
        report_event.argtypes = [
            wintypes.HANDLE, wintypes.WORD, wintypes.WORD, wintypes.DWORD, ctypes.c_void_p, wintypes.WORD,
            wintypes.DWORD, ctypes.POINTER(wintypes.LPCWSTR), ctypes.c_void_p,
        ]  # fmt: skip
        handle = register(None, SOURCE)
        if not handle:
            raise ctypes.WinError(ctypes.get_last_error())

        def report(kind: int, id_: int, text: str) -> None:
            strings = (wintypes.LPCWSTR * 1)(text)
            if not report_event(handle, kind, 0, id_, None, 1, 0, strings, None):
                raise ctypes.WinError(ctypes.get_last_error())

        return report
    raise ConfigurationError(
        "the Event Log exists only on Windows", remedy="use --audit-to journal, or a syslog server"
    )
