"""Packages whose names are loaded when they are first used (PEP 562).

A program that needs one name of a package thus does not load modules that only other names need, such as Trio.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping

__all__ = ["load_when_used"]


def load_when_used(
    package: str, homes: Mapping[str, Iterable[str]], open_homes: Iterable[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return functions for a package's ``__getattr__`` and ``__dir__``.

    Args:
        package: the package's ``__name__``.
        homes: the names that come from each module in the package, by the module's relative name.
        open_homes: further modules, from which all names in their ``__all__`` come. All of them are loaded when the
            first of their names is used.
    """
    home_of = {name: home for home, names in homes.items() for name in names}
    module = sys.modules[package]
    not_loaded = list(open_homes)

    def load_open_homes() -> None:
        while not_loaded:
            home = not_loaded[-1]
            home_of.update(dict.fromkeys(importlib.import_module(f".{home}", package).__all__, home))
            del not_loaded[-1]

    def get(name: str) -> object:
        if name not in home_of and not name.startswith("__"):
            load_open_homes()
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f".{home_of[name]}", package), name)
        setattr(module, name, value)
        return value

    def names() -> list[str]:
        load_open_homes()
        return sorted({*vars(module), *home_of})

    return get, names
