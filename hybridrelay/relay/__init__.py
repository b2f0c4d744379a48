"""The relay: authenticates both sides, pairs them, moves their bytes; can read none of them."""

from .model import HybridConnection as HybridConnection
from .model import RelayRecord as RelayRecord
from .service.server import DRAIN_SECONDS as DRAIN_SECONDS
from .service.server import Binding as Binding
from .service.server import Relay as Relay
from .service.server import RelayConfig as RelayConfig
from .service.server import RelayInfo as RelayInfo
from .service.server import run_relay as run_relay
from .store.memory import MemoryStore as MemoryStore
from .store.public_ports import load_public_ports as load_public_ports
from .store.public_ports import relay_has_run as relay_has_run
from .store.record import dump_relay_record as dump_relay_record
from .store.record import parse_relay_record_untrusted as parse_relay_record_untrusted
from .store.sqlite import SQLiteStore as SQLiteStore
from .store.store import Store as Store
