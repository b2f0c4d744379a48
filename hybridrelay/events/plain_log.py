"""Converts events to records of the standard library's `logging`.

Only this module converts the fields of events to text. A record has the text as its message, and these attributes for
formatters: ``event`` (the name), ``operation``, and ``fields`` (all fields that have a value, as types that JSON
has).
"""

from __future__ import annotations

import enum
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import attrs

from ..protocol.reasons import Reason
from .base import Event
from .stream import EventStream, Subscriber

__all__ = [
    "LOGGER",
    "PlainLogSubscriber",
    "also_subscribed",
    "event_fields",
    "event_text",
    "fields_text",
    "plainly_logged_events",
]

#: The name of the logger for events.
LOGGER = "hybridrelay.events"

#: The type of a field's value in a log record.
FieldValue: TypeAlias = str | int | float | bool | list[str]

#: Matches strings that are logged without quotes.
_PLAIN = re.compile(r"[\w.:@/+*\[\]-]+", re.ASCII)


class PlainLogSubscriber:
    """Logs each event at its level, without a limit. For events that peers cannot cause repeatedly; for others there
    is `LogSubscriber`.
    """

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


#: The other subscribers of `plainly_logged_events`.
_others: list[Subscriber] = []


def plainly_logged_events() -> EventStream:
    """Make a stream to which `PlainLogSubscriber` subscribes, and those of `also_subscribed`."""
    return EventStream(PlainLogSubscriber(), *_others)


@contextmanager
def also_subscribed(subscriber: Subscriber) -> Iterator[None]:
    """Call `subscriber` with the events of all streams that `plainly_logged_events` makes during the block, in any
    thread."""
    _others.append(subscriber)
    try:
        yield
    finally:
        _others.remove(subscriber)


def event_fields(event: Event) -> Mapping[str, FieldValue]:
    """Return the fields of an event that have a value, by name. Reasons are slugs such as ``no-listener``."""
    values = ((field.name, getattr(event, field.name)) for field in attrs.fields(type(event)))
    return {
        name: _value(value)
        for name, value in values
        if value is not None and value != "" and value != () and not isinstance(value, BaseException)
    }


def event_text(event: Event) -> str:
    """Format an event as one line for people: what happened, and the fields as ``name=value``."""
    facts = fields_text(event_fields(event))
    return f"{event.summary}: {facts}" if facts else event.summary


def fields_text(fields: Mapping[str, FieldValue]) -> str:
    """Format fields as ``name=value``. Values with unusual characters are quoted, so that a peer cannot forge one."""
    return " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())


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
