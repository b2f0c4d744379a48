"""The log: to standard error, as lines for people or as JSON for programs."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import traceback
from typing import TextIO


def set_up_logs(level: str, *, as_json: bool) -> None:
    """Send the log to standard error. Replaces what an earlier call set up.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        as_json: one JSON object for each record.
    """
    root = logging.getLogger()
    for earlier in [one for one in root.handlers if isinstance(one, StderrHandler)]:
        root.removeHandler(earlier)
    handler = StderrHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if as_json else LineFormatter())
    root.addHandler(handler)
    root.setLevel(level.upper())


class StderrHandler(logging.StreamHandler[TextIO]):
    """Ours, as opposed to those of a program that calls us."""


def _time(record: logging.LogRecord) -> str:
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LineFormatter(logging.Formatter):
    """``time level logger: message``, and nothing that a peer sent can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback behind it where there is one."""
        message = "".join(char if char.isprintable() else " " for char in record.getMessage())
        line = f"{_time(record)} {record.levelname.lower():7} {record.name}: {message}"
        return line + _traceback(record, prefix="\n")


class JSONFormatter(logging.Formatter):
    """One object for each record: time, level, logger, message, and ``fields`` where the record carries them."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the record."""
        content: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (fields := getattr(record, "fields", None)) is not None:
            content["fields"] = fields
        if text := _traceback(record):
            content["traceback"] = text
        return json.dumps(content, default=str)


def _traceback(record: logging.LogRecord, prefix: str = "") -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return prefix + "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
