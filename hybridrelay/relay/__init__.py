"""The relay: authenticates both sides, pairs them, and moves their bytes, which it cannot read.

Names are loaded when first used, so that commands that only use the store do not import the code that serves
connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_used

if TYPE_CHECKING:
    from .config import Binding as Binding
    from .config import RelayConfig as RelayConfig
    from .config import RelayInfo as RelayInfo
    from .directory.directory import Directory as Directory
    from .directory.directory import DirectoryEntry as DirectoryEntry
    from .directory.memory import MemoryDirectory as MemoryDirectory
    from .model import HybridConnection as HybridConnection
    from .model import RelayRecord as RelayRecord
    from .service.relay import STOP_GRACE_SECONDS as STOP_GRACE_SECONDS
    from .service.relay import Relay as Relay
    from .service.relay import run_relay as run_relay
    from .snapshot import CertificateSnapshot as CertificateSnapshot
    from .snapshot import ConnectionSnapshot as ConnectionSnapshot
    from .snapshot import EndSnapshot as EndSnapshot
    from .snapshot import ListenerSnapshot as ListenerSnapshot
    from .snapshot import LiveRelay as LiveRelay
    from .snapshot import PlacesSnapshot as PlacesSnapshot
    from .snapshot import QuotaSnapshot as QuotaSnapshot
    from .snapshot import RelaySnapshot as RelaySnapshot
    from .snapshot import SenderSnapshot as SenderSnapshot
    from .snapshot import SessionSnapshot as SessionSnapshot
    from .store.memory import MemoryStore as MemoryStore
    from .store.public_ports import load_public_ports as load_public_ports
    from .store.public_ports import relay_has_run as relay_has_run
    from .store.record import dump_relay_record as dump_relay_record
    from .store.record import parse_relay_record_untrusted as parse_relay_record_untrusted
    from .store.sqlite import SQLiteStore as SQLiteStore
    from .store.store import Store as Store

_HOMES = {
    "config": ("Binding", "RelayConfig", "RelayInfo"),
    "directory.directory": ("Directory", "DirectoryEntry"),
    "directory.memory": ("MemoryDirectory",),
    "model": ("HybridConnection", "RelayRecord"),
    "service.relay": ("STOP_GRACE_SECONDS", "Relay", "run_relay"),
    "snapshot": (
        "CertificateSnapshot",
        "ConnectionSnapshot",
        "EndSnapshot",
        "ListenerSnapshot",
        "LiveRelay",
        "PlacesSnapshot",
        "QuotaSnapshot",
        "RelaySnapshot",
        "SenderSnapshot",
        "SessionSnapshot",
    ),
    "store.memory": ("MemoryStore",),
    "store.public_ports": ("load_public_ports", "relay_has_run"),
    "store.record": ("dump_relay_record", "parse_relay_record_untrusted"),
    "store.sqlite": ("SQLiteStore",),
    "store.store": ("Store",),
}

__all__ = [name for names in _HOMES.values() for name in names]
__getattr__, __dir__ = load_when_used(__name__, _HOMES)
