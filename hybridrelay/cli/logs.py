"""Writes the log to standard error, as lines for people or as JSON for programs."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import TextIO

from .._printable import printable
from .log_writer import FLUSH_SECONDS, LogWriter

logger = logging.getLogger("hybridrelay.cli")


def set_up_logs(level: str, *, as_json: bool) -> None:
    """Send the log to standard error, without ever waiting for its reader. Replaces what an earlier call set up.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        as_json: one JSON object for each record.
    """
    # Log lines contain none of this, and collecting it takes as long as formatting a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    for earlier in _our_handlers():
        root.removeHandler(earlier)
        earlier.close()
    root.addHandler(StderrHandler(sys.stderr, JSONFormatter() if as_json else LineFormatter()))
    root.setLevel(level.upper())


def write_error(text: str) -> None:
    """Write lines that are not log records to standard error, in order with the log and without waiting."""
    handlers = _our_handlers()
    for handler in handlers:
        handler.write(text)
    if not handlers:
        with contextlib.suppress(OSError):
            print(text, end="", file=sys.stderr, flush=True)


def print_error(message: str, remedy: str | None, *, as_json: bool, reason: str | None = None) -> None:
    """Report why the command failed.

    Args:
        message: the message, in one line.
        remedy: what to do about it; None if there is nothing to suggest.
        as_json: whether to write a log record instead of lines for people.
        reason: the reason's slug, for programs; None if the error has none. Only in JSON.
    """
    if as_json:
        fields = {"reason": reason, "remedy": remedy}
        logger.error("%s", message, extra={"fields": {key: value for key, value in fields.items() if value}})
        return
    lines = [f"hybridrelay: error: {message}", *([f"  try: {remedy}"] if remedy else [])]
    write_error("\n".join(map(printable, lines)) + "\n")


def logs_are_json() -> bool:
    """Return whether the log is JSON, according to the last call of `set_up_logs`."""
    return any(isinstance(handler.formatter, JSONFormatter) for handler in _our_handlers())


def flush_logs(seconds: float = FLUSH_SECONDS) -> None:
    """Wait for up to `seconds` until the log has been written. The log can still be used afterwards."""
    for handler in _our_handlers():
        handler.drain(seconds)


@contextlib.contextmanager
def log_python_messages() -> Iterator[None]:
    """Log the warnings and errors of finalizers that Python would otherwise print to standard error, blocking."""
    show_warning, unraisable_hook = warnings.showwarning, sys.unraisablehook

    def log_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        logger.warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)

    def log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        info = None if error is None else (type(error), error, unraisable.exc_traceback)
        logger.error("%s: %r", unraisable.err_msg or "an exception was ignored in", unraisable.object, exc_info=info)

    warnings.showwarning, sys.unraisablehook = log_warning, log_unraisable
    try:
        yield
    finally:
        warnings.showwarning, sys.unraisablehook = show_warning, unraisable_hook


def _our_handlers() -> list[StderrHandler]:
    return [one for one in logging.getLogger().handlers if isinstance(one, StderrHandler)]


class StderrHandler(logging.Handler):
    """A handler that never blocks (see `LogWriter`), of a class that only this package uses."""

    def __init__(self, stream: TextIO | None, formatter: logging.Formatter) -> None:
        """Write to the descriptor of `stream`, or to `stream` itself if it has none; None discards everything."""
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._writer: LogWriter | None = None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):  # a stream that exists only in memory has no descriptor
                self._writer = LogWriter(stream.fileno(), self._report_missing)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record."""
        try:
            text = self.format(record)
        except (TypeError, ValueError, KeyError):  # the message does not match its arguments
            text = f"{_time(record)} error hybridrelay.log: a record of {record.name} could not be formatted"
        self.write(text + "\n")

    def write(self, text: str) -> None:
        """Queue text, which ends with a line end."""
        if self._writer is not None:
            self._writer.put(text)
        elif self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()

    def drain(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait for up to `seconds` until everything has been written.

        This is not called `flush`, because `logging` calls `flush` again when the interpreter ends; a stalled reader
        should delay the end only once.
        """
        if self._writer is not None:
            self._writer.flush(seconds)

    def close(self) -> None:
        """End the writing thread when it has written the queue."""
        if self._writer is not None:
            self._writer.close()
        super().close()

    def _report_missing(self, count: int) -> str:
        text = "%d log records are missing here: standard error could not be written, or was slow, or memory ran out"
        return self.format(logging.LogRecord("hybridrelay.log", logging.ERROR, "", 0, text, (count,), None)) + "\n"


def _time(record: logging.LogRecord) -> str:
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


#: Fields that have the same meaning in all events, and their names in JSON, where they are at the top level.
_COMMON_FIELDS = {
    "connection": "connection",
    "activity_id": "activityId",
    "peer": "peer",
    "reason": "reason",
    "detail": "detail",
}


class LineFormatter(logging.Formatter):
    """Formats records as ``time level source: message``. Text from a peer is escaped, so that it cannot forge a line.

    The source is the name of the event, or of the logger if the record is not an event.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, followed by the traceback if there is one.

        The lines of a traceback are marked: the message of an exception may have several lines, and contain text from
        a peer, which could otherwise look like a line of the log.
        """
        message = printable(record.getMessage())
        source = getattr(record, "event", record.name)
        line = f"{_time(record)} {record.levelname.lower():7} {source}: {message}"
        return "\n  | ".join([line, *_traceback(record).splitlines()])


class JSONFormatter(logging.Formatter):
    """Formats each record as an object with time, level, logger, message, and ``fields`` if the record has any.

    An event has its name in ``event``, and Azure's name for it, if there is one, in ``operation``. Fields that have
    the same meaning in all events (`_COMMON_FIELDS`) are at the top level; ``fields`` contains the others.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON, whatever the record contains."""
        content: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if (event := getattr(record, "event", None)) is not None:
            content["event"] = event
            if operation := getattr(record, "operation", None):
                content["operation"] = operation
            rest = dict(fields or {})
            content.update({shown: rest.pop(name) for name, shown in _COMMON_FIELDS.items() if name in rest})
            fields = rest or None
        if fields is not None:
            content["fields"] = fields
        if text := _traceback(record):
            content["traceback"] = text
        return json.dumps(content, default=str)


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
