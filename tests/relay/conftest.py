"""What the relay's tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import Right, Rule


@pytest.fixture
def no_descriptor_leaks() -> Iterator[None]:
    """Fails if the test leaves descriptors open."""
    if sys.platform != "linux":
        yield
        return
    before = _descriptors()
    yield
    # Fewer are not an error: garbage of an earlier test may have been collected meanwhile, which closes its
    # descriptors.
    assert _descriptors().items() <= before.items()


def _descriptors() -> dict[str, str]:
    opened = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            opened[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the one that listed the directory
    return opened


@pytest.fixture
def rules() -> tuple[Rule, ...]:
    return Rule.generate("listener", [Right.LISTEN]), Rule.generate("sender", [Right.SEND])


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore.open(tmp_path / "state") as opened:
        yield opened
