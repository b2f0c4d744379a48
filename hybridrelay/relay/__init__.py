"""The relay: authenticates both sides, pairs them, moves their bytes; can read none of them."""

from .model import HybridConnection as HybridConnection
from .model import RelayRecord as RelayRecord
from .public_ports import load_public_ports as load_public_ports
from .public_ports import relay_has_run as relay_has_run
from .record import dump_relay_record as dump_relay_record
from .record import parse_relay_record_untrusted as parse_relay_record_untrusted
from .registry import Registry as Registry
from .server import DRAIN_SECONDS as DRAIN_SECONDS
from .server import Binding as Binding
from .server import Relay as Relay
from .server import RelayConfig as RelayConfig
from .server import RelayInfo as RelayInfo
from .server import run_relay as run_relay
