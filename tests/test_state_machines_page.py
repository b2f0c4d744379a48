"""`docs/state-machines.md` shows every transition table as it is, and `docs/embedding.md` every recipe."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

import hybridrelay

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_generate_state_machines", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # attrs looks up the module of the classes that it makes.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(generator: ModuleType) -> None:
    page = (DOCS / "state-machines.md").read_text(encoding="utf-8")
    assert page == generator.page(), "run: python docs/generate.py"


def test_the_recipes_are_current(generator: ModuleType) -> None:
    page = (DOCS / "embedding.md").read_text(encoding="utf-8")
    assert page == generator.embedding_page(), "run: python docs/generate.py"


def test_every_transition_table_is_shown(generator: ModuleType) -> None:
    shown = {id(machine.table) for machine in generator.MACHINES}
    missing = []
    for info in pkgutil.walk_packages(hybridrelay.__path__, "hybridrelay."):
        if info.name.endswith("__main__") or info.name.startswith("hybridrelay._benchmarks."):
            continue  # the benchmark suite, which a wheel has in there, needs more packages
        module = importlib.import_module(info.name)
        table = vars(module).get("TRANSITIONS")
        if table is not None and id(table) not in shown:
            missing.append(info.name)
    assert not missing, "add these tables to MACHINES in docs/generate.py"


def test_every_state_can_be_reached(generator: ModuleType) -> None:
    for machine in generator.MACHINES:
        states = {state for state, _ in machine.table}
        reached = {generator._target(target)[0] for target in machine.table.values()} | set(machine.initial)
        assert states <= reached, machine.title
