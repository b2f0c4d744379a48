"""Keeping hybrid connections registered at one relay: a pure state machine. See `machine.py`."""

from .entry import Registration as Registration
from .inputs import RelayIdentity as RelayIdentity
from .machine import Machine as Machine
