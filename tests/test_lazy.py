"""Packages whose names are loaded when they are first used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["hybridrelay", "hybridrelay.relay", "hybridrelay.events"])
def test_every_name_can_be_loaded(package: str) -> None:
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ("LogSubscriber", "logged_events")):
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
