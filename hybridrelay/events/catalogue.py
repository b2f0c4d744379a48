"""Lists all events, and generates the tables of docs/events.md."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import attrs

from . import (
    audit,
    claims,
    client,
    connectivity,
    connector,
    connector_resources,
    endpoint,
    fronts,
    identities,
    management,
    policy,
    program,
    quotas,
    relay,
    relay_changes,
    relay_resources,
)
from .base import Event

__all__ = ["all_events", "reference"]

#: The modules that define events, with their headings in docs/events.md.
_MODULES: Sequence[tuple[str, ModuleType]] = (
    ("Events of the relay", relay),
    ("Events of the relay: changes by administrators", relay_changes),
    ("Events of the relay: quotas", quotas),
    ("Events of the relay's store and resources", relay_resources),
    ("Events of the management API", management),
    ("Events of claims", claims),
    ("Events of identities that are issued", identities),
    ("Events of the connector", connector),
    ("Events of the connector's files and resources", connector_resources),
    ("Events of the policy and of deny lists", policy),
    ("Events of the client", client),
    ("Events of the fronts and the name server of a forward", fronts),
    ("Events of connector and client", endpoint),
    ("Events of connectivity", connectivity),
    ("Events of the audit log", audit),
    ("Events of all programs", program),
)


def all_events() -> tuple[type[Event], ...]:
    """Return the classes of all events."""
    return tuple(event for _, module in _MODULES for event in _of(module))


def reference() -> str:
    """Return the tables of docs/events.md."""
    sections = []
    for heading, module in _MODULES:
        rows = [
            f"## {heading}",
            "",
            "| event | level | Azure's operation | what happened | fields |",
            "|---|---|---|---|---|",
        ]
        rows += [_row(event) for event in _of(module)]
        sections.append("\n".join(rows))
    return "\n\n".join(sections) + "\n"


def _of(module: ModuleType) -> list[type[Event]]:
    return [value for value in vars(module).values() if _is_event(value)]


def _is_event(value: object) -> bool:
    # `Event` itself and base classes with shared fields have no name.
    return isinstance(value, type) and issubclass(value, Event) and hasattr(value, "name")


def _row(event: type[Event]) -> str:
    fields = ", ".join(f"`{field.name}`" for field in attrs.fields(event) if field.name != "exception")
    operation = "" if event.operation is None else f"`{event.operation}`"
    return f"| `{event.name}` | {event.level.name.lower()} | {operation} | {event.summary}. | {fields} |"
