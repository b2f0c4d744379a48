"""An example of any event, made from the types of its fields."""

from __future__ import annotations

import typing

import attrs

from hybridrelay.events import Event
from hybridrelay.protocol.reasons import Reason

_EXAMPLES: dict[object, object] = {
    str: "some text",
    int: 7,
    float: 1.25,
    bool: True,
    int | None: 5,
    Reason: Reason.LIMIT,
    tuple[str, ...]: ("a", "b"),
    BaseException: ValueError("why"),
}


def example(event: type[Event]) -> Event:
    """An event of this class; a type without an example is an error of this module."""
    hints = typing.get_type_hints(event)
    return event(**{field.name: _EXAMPLES[hints[field.name]] for field in attrs.fields(event)})
