"""Turns events into records of the standard library's `logging`.

This is the only place where an event becomes text. A record has the text as its message, and these attributes for
formatters: ``event`` (the name), ``operation``, and ``fields`` (all fields that have a value, as JSON can show them).
"""

from __future__ import annotations

import enum
import logging
import re
from collections.abc import Mapping
from typing import TypeAlias

import attrs

from ..protocol.reasons import Reason
from .base import Event
from .stream import EventStream

__all__ = ["LOGGER", "PlainLogSubscriber", "event_fields", "event_text", "plainly_logged_events"]

#: The name of the logger for events.
LOGGER = "hybridrelay.events"

#: What a field is in a log record.
FieldValue: TypeAlias = str | int | float | bool | list[str]

#: Strings that need no quotes.
_PLAIN = re.compile(r"[\w.:@/+*\[\]-]+", re.ASCII)


class PlainLogSubscriber:
    """Logs each event at its level. For events that no peer can cause again and again; see `LogSubscriber`."""

    def __init__(self, logger: str = LOGGER) -> None:
        """Write to the logger with this name."""
        self._logger = logging.getLogger(logger)

    def __call__(self, event: Event) -> None:
        """Log one event."""
        level = int(event.level)
        if not self._logger.isEnabledFor(level) or not self._may_log(event):
            return
        exception = getattr(event, "exception", None)
        self._logger.log(
            level,
            "%s",
            event_text(event),
            exc_info=exception if isinstance(exception, BaseException) else None,
            extra={"event": event.name, "operation": event.operation, "fields": event_fields(event)},
        )

    def _may_log(self, event: Event) -> bool:
        return True


def plainly_logged_events() -> EventStream:
    """A stream that only `PlainLogSubscriber` subscribes to."""
    return EventStream(PlainLogSubscriber())


def event_fields(event: Event) -> Mapping[str, FieldValue]:
    """The fields of an event that have a value, by name. Reasons are slugs: ``no-listener``."""
    values = ((field.name, getattr(event, field.name)) for field in attrs.fields(type(event)))
    return {
        name: _value(value)
        for name, value in values
        if value is not None and value != "" and value != () and not isinstance(value, BaseException)
    }


def event_text(event: Event) -> str:
    """One line for people: what happened, and the facts as ``name=value``.

    Values that contain anything unusual are quoted, so that a peer cannot forge a field.
    """
    facts = " ".join(f"{name}={_quoted(value)}" for name, value in event_fields(event).items())
    return f"{event.summary}: {facts}" if facts else event.summary


def _value(value: object) -> FieldValue:
    if isinstance(value, Reason):
        return value.slug
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, (tuple, list, frozenset)):
        return [str(_value(one)) for one in value]
    return str(value)


def _quoted(value: FieldValue) -> str:
    if isinstance(value, list):
        return ",".join(map(_quoted, value))
    text = str(value)
    return text if _PLAIN.fullmatch(text) else repr(text)
