"""Where the benchmark suite is: installed with this package, or in a checkout beside it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

#: Where the wheel has it.
_INSTALLED = "hybridrelay._benchmarks"
#: Where a checkout has it: beside this distribution's own folder.
_CHECKOUT = Path(__file__).parents[2]


def find_suite() -> str | None:
    """The package's name, or None."""
    if importlib.util.find_spec(_INSTALLED) is not None:
        return _INSTALLED
    if (_CHECKOUT / "benchmarks" / "arguments.py").is_file():
        return "benchmarks"
    return None


def load_suite(package: str, module: str) -> ModuleType:
    """Import one of its modules; `package` is what `find_suite` returned."""
    if package != _INSTALLED and str(_CHECKOUT) not in sys.path:
        sys.path.append(str(_CHECKOUT))
    return importlib.import_module(f"{package}.{module}")
