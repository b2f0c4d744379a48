"""What happens, as a stream of typed events.

The parts of the program publish events and format nothing. The log, the audit log and metrics are subscribers of the
same stream. docs/events.md lists all events; ``python -m hybridrelay.events`` prints its tables.
"""

from .base import Event as Event
from .base import Level as Level
from .catalogue import all_events as all_events
from .endpoint import *  # noqa: F403
from .log import LogSubscriber as LogSubscriber
from .log import event_fields as event_fields
from .log import event_text as event_text
from .log import logged_events as logged_events
from .program import *  # noqa: F403
from .relay import *  # noqa: F403
from .stream import EventStream as EventStream
from .stream import Subscriber as Subscriber
