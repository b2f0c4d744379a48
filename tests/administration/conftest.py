"""A hybrid connection with its files, made without a command line."""

from __future__ import annotations

import time
from pathlib import Path

import attrs
import pytest

from hybridrelay.administration import NewFiles, StoreRegistry, create_connection, read_relay_record
from hybridrelay.relay import MemoryStore, Store
from hybridrelay.security import HostPort, KeySlot, Secret


@attrs.frozen
class Scene:
    """``orders``: its files, and the store of its relay."""

    files: NewFiles
    store: Store

    @property
    def registry(self) -> StoreRegistry:
        """The registry of its relay."""
        return StoreRegistry(self.store)

    def key(self, rule: str, slot: KeySlot) -> Secret:
        """The hybrid connection as the relay has it."""
        key = self.store.rule("orders", rule).key(slot)
        assert key is not None
        return key


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    files = NewFiles(
        tmp_path / "orders.connector",
        tmp_path / "orders.application",
        tmp_path / "orders.authority",
        tmp_path / "orders.relay",
    )
    create_connection(
        "orders",
        target=HostPort("db.internal", 5432),
        hosts=["a.example.com"],
        files=files,
        pins=["sha256:" + "A" * 43 + "="],
        now=time.time(),
    )
    store = MemoryStore()
    assert files.relay is not None
    store.import_(read_relay_record(files.relay))
    return Scene(files, store)
