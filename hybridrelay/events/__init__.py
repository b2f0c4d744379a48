"""What happens, as a stream of typed events.

The parts of the program publish events and format nothing. The log, the audit log and metrics are subscribers of the
same stream. docs/events.md lists all events; ``python -m hybridrelay.events`` prints its tables.
"""

from .base import Event as Event
from .base import Level as Level
from .catalogue import all_events as all_events
from .connector import *  # noqa: F403
from .endpoint import *  # noqa: F403
from .log import LogSubscriber as LogSubscriber
from .log import logged_events as logged_events
from .plain_log import PlainLogSubscriber as PlainLogSubscriber
from .plain_log import event_fields as event_fields
from .plain_log import event_text as event_text
from .program import *  # noqa: F403
from .relay import *  # noqa: F403
from .stream import EventStream as EventStream
from .stream import Subscriber as Subscriber
