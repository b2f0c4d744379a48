"""``hybridrelay bench``: finds the benchmark suite, which is no part of this package, and hands over to it."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from .. import exits
from ..parser import Subparsers, add_command

#: Where the wheel has it.
_INSTALLED = "hybridrelay._benchmarks"
#: Where a checkout has it: beside this distribution's own folder.
_CHECKOUT = Path(__file__).parents[3]
_NOT_FOUND = """\
Measure hybridrelay, and what one would use instead. The benchmark suite is not installed here: run it from a checkout
of the project, with 'python -m benchmarks'.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command; its options are the suite's."""
    summary = "measure it, on this machine, beside what one would use instead"
    package = _find_suite()
    if package is None:
        parser = add_command(subparsers, "bench", summary, _NOT_FOUND, "")
        parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
        parser.set_defaults(run=_explain, default_log_level="warning")
        return
    arguments = _load(package, "arguments")
    parser = add_command(subparsers, "bench", summary, arguments.DESCRIPTION, arguments.EXAMPLES)
    arguments.add_arguments(parser)
    parser.set_defaults(run=_run, default_log_level="warning")


def _run(args: argparse.Namespace) -> int:
    package = _find_suite()
    assert package is not None
    code: int = _load(package, "main").run(args)
    return code


def _explain(args: argparse.Namespace) -> int:
    print(_NOT_FOUND, file=sys.stderr, end="")
    return exits.FAILED


def _find_suite() -> str | None:
    """The package's name, or None."""
    if importlib.util.find_spec(_INSTALLED) is not None:
        return _INSTALLED
    if (_CHECKOUT / "benchmarks" / "arguments.py").is_file():
        return "benchmarks"
    return None


def _load(package: str, module: str) -> ModuleType:
    if package != _INSTALLED and str(_CHECKOUT) not in sys.path:
        sys.path.append(str(_CHECKOUT))
    return importlib.import_module(f"{package}.{module}")
