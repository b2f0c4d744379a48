"""``hybridrelay bench``: runs the benchmark suite."""

from __future__ import annotations

import argparse
import sys

from .. import exits
from ..arguments.bench import NOT_FOUND
from ..bench_suite import find_suite, load_suite


def run(args: argparse.Namespace) -> int:
    """Run the suite with these arguments."""
    package = find_suite()
    assert package is not None
    code: int = load_suite(package, "main").run(args)
    return code


def explain(args: argparse.Namespace) -> int:
    """Print where the suite is found."""
    print(NOT_FOUND, file=sys.stderr, end="")
    return exits.FAILED
