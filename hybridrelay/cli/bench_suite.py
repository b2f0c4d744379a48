"""Finds the benchmark suite: installed with this package, or in a checkout of the project."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

#: The package's name if it was installed from a wheel.
_INSTALLED = "hybridrelay._benchmarks"
#: The directory that contains the suite's package in a checkout of the project.
_CHECKOUT = Path(__file__).parents[2]


def find_suite() -> str | None:
    """Return the name of the suite's package, or None if there is none."""
    if importlib.util.find_spec(_INSTALLED) is not None:
        return _INSTALLED
    if (_CHECKOUT / "benchmarks" / "arguments.py").is_file():
        return "benchmarks"
    return None


def load_suite(package: str, module: str) -> ModuleType:
    """Import one of the suite's modules. `package` is the result of `find_suite`."""
    if package != _INSTALLED and str(_CHECKOUT) not in sys.path:
        sys.path.append(str(_CHECKOUT))
    return importlib.import_module(f"{package}.{module}")
