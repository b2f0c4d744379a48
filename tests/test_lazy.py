"""Packages whose names are loaded when they are first used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from hybridrelay import events


@pytest.mark.parametrize(
    "package",
    [
        "hybridrelay",
        "hybridrelay.relay",
        "hybridrelay.protocol",
        "hybridrelay.management",
        "hybridrelay.security",
        "hybridrelay.administration",
        "hybridrelay.connectivity",
    ],
)
def test_every_name_can_be_loaded(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert name in dir(module)
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"{package}.*no_such_name"):
        _ = module.no_such_name


@pytest.mark.parametrize(
    "statement", ["import hybridrelay.protocol", "from hybridrelay.relay import SQLiteStore, HybridConnection"]
)
def test_nothing_loads_trio_that_does_not_need_it(statement: str) -> None:
    check = f"import sys; {statement}; sys.exit('trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False, timeout=60).returncode == 0


def test_every_event_can_be_loaded() -> None:
    names = ["LogSubscriber", "logged_events", "all_events", *(event.__name__ for event in events.all_events())]
    for name in names:
        assert name in dir(events)
        assert getattr(events, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = events.no_such_name


def test_a_command_that_shows_the_status_loads_neither_servers_nor_all_events() -> None:
    needed = "hybridrelay.cli.commands.status, hybridrelay.management.addresses, hybridrelay.management.status"
    others = ("hybridrelay.http", "hybridrelay.events.relay", "hybridrelay.administration", "sqlite3", "cryptography")
    check = f"import sys, {needed}; sys.exit(' '.join(sys.modules.keys() & {others}))"
    done = subprocess.run([sys.executable, "-c", check], check=False, timeout=60, capture_output=True, text=True)
    assert done.stderr.strip() == ""
