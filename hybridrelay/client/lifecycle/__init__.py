"""The life cycle of a session at the client, as a pure machine: no Trio, no socket, no clock and no randomness."""

from .machine import Machine as Machine
from .states import TRANSITIONS as TRANSITIONS
from .states import Cause as Cause
from .states import Outcome as Outcome
from .states import State as State
