"""The relay: authenticates both sides, pairs them, moves their bytes; can read none of them."""

from .config import Binding as Binding
from .config import RelayConfig as RelayConfig
from .config import RelayInfo as RelayInfo
from .directory.directory import Directory as Directory
from .directory.directory import DirectoryEntry as DirectoryEntry
from .directory.memory import MemoryDirectory as MemoryDirectory
from .model import HybridConnection as HybridConnection
from .model import RelayRecord as RelayRecord
from .service.relay import DRAIN_SECONDS as DRAIN_SECONDS
from .service.relay import Relay as Relay
from .service.relay import run_relay as run_relay
from .snapshot import ListenerSnapshot as ListenerSnapshot
from .snapshot import PlacesSnapshot as PlacesSnapshot
from .snapshot import RelaySnapshot as RelaySnapshot
from .snapshot import RendezvousSnapshot as RendezvousSnapshot
from .snapshot import SenderSnapshot as SenderSnapshot
from .store.memory import MemoryStore as MemoryStore
from .store.public_ports import load_public_ports as load_public_ports
from .store.public_ports import relay_has_run as relay_has_run
from .store.record import dump_relay_record as dump_relay_record
from .store.record import parse_relay_record_untrusted as parse_relay_record_untrusted
from .store.sqlite import SQLiteStore as SQLiteStore
from .store.store import Store as Store
