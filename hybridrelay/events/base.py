"""The base class of events: frozen values with a name, a level and typed fields."""

from __future__ import annotations

import enum
from typing import ClassVar

import attrs

from .._value import Value

__all__ = ["Event", "Level"]


class Level(enum.IntEnum):
    """The severity of an event. The numbers are those of the standard library's `logging`."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@attrs.frozen(kw_only=True)
class Event(Value):
    """Something that happened in this process.

    Every event is a frozen attrs class with the class variables below. Its fields are strings, numbers and
    enumerations. They never contain secrets or text that is already formatted for a log line. A class without a
    `name` is not an event, but a base class with fields that several events share. The following field names have the
    same meaning in every event, and are at the top level of a JSON log record:

    - ``connection``: the name of the hybrid connection.
    - ``activity_id``: the id of a rendezvous, session or stream, which is in all of its events.
    - ``peer``: the network address of the other side.
    - ``reason``: a `Reason`.
    - ``detail``: a sentence for people, such as the message of an exception.

    ``exception`` is an exception whose traceback belongs in the log.
    """

    #: Lower-case words joined by dots and hyphens, unique among all events: ``rendezvous.joined``.
    name: ClassVar[str]
    #: The operation name of the same event in the diagnostic log of Azure Relay; None if it has none.
    operation: ClassVar[str | None] = None
    level: ClassVar[Level]
    #: Whether the log may omit some of these events if there are many, and log their number instead. False if each
    #: event is evidence, and the number that a peer can cause is limited in another way.
    is_limited: ClassVar[bool] = True
    #: What happened, as a sentence without a full stop: the text of a log line, and of a row in docs/events.md.
    summary: ClassVar[str]
