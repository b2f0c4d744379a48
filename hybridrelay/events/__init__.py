"""Typed events: what happens in a program, delivered to subscribers.

Code that publishes an event does not format text. The log, the audit log and metrics subscribe to the same stream.
docs/events.md lists all events; ``python -m hybridrelay.events`` prints its tables.

Code of this project imports each event from the module that defines it, so that a program loads only the events that
it can publish. All names are also available here, for users of the library. The first use of an event's name loads
all modules with events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_used

if TYPE_CHECKING:
    from .audit import *  # noqa: F403
    from .base import Event as Event
    from .base import Level as Level
    from .catalogue import all_events as all_events
    from .claims import *  # noqa: F403
    from .client import *  # noqa: F403
    from .connectivity import *  # noqa: F403
    from .connector import *  # noqa: F403
    from .connector_resources import *  # noqa: F403
    from .endpoint import *  # noqa: F403
    from .fronts import *  # noqa: F403
    from .identities import *  # noqa: F403
    from .log import LogSubscriber as LogSubscriber
    from .log import logged_events as logged_events
    from .management import *  # noqa: F403
    from .plain_log import PlainLogSubscriber as PlainLogSubscriber
    from .plain_log import event_fields as event_fields
    from .plain_log import event_text as event_text
    from .policy import *  # noqa: F403
    from .program import *  # noqa: F403
    from .quotas import *  # noqa: F403
    from .relay import *  # noqa: F403
    from .relay_changes import *  # noqa: F403
    from .relay_resources import *  # noqa: F403
    from .stream import EventStream as EventStream
    from .stream import Subscriber as Subscriber

_HOMES = {
    "base": ("Event", "Level"),
    "catalogue": ("all_events",),
    "log": ("LogSubscriber", "logged_events"),
    "plain_log": ("PlainLogSubscriber", "event_fields", "event_text"),
    "stream": ("EventStream", "Subscriber"),
}
#: All public names of these modules are names of the package.
_OPEN = (
    "audit",
    "claims",
    "client",
    "connectivity",
    "connector",
    "connector_resources",
    "endpoint",
    "fronts",
    "identities",
    "management",
    "policy",
    "program",
    "quotas",
    "relay",
    "relay_changes",
    "relay_resources",
)

__getattr__, __dir__ = load_when_used(__name__, _HOMES, _OPEN)
