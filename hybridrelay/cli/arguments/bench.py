"""The arguments of ``hybridrelay bench``. They are defined by the benchmark suite, which is not part of this
package."""

from __future__ import annotations

import argparse

from ..bench_suite import find_suite, load_suite
from ..command import Command
from ..parsing import Parser

NOT_FOUND = """\
Measure hybridrelay and its alternatives. The benchmark suite is not installed here: run it from a checkout of the
project, with 'python -m benchmarks'.
"""


def _command() -> Command:
    summary = "measure hybridrelay and its alternatives, on this machine"
    package = find_suite()
    if package is None:
        return Command("bench", summary, NOT_FOUND, "", _add_rest, run="bench:explain")
    arguments = load_suite(package, "arguments")
    return Command(
        "bench", summary, arguments.DESCRIPTION, arguments.EXAMPLES, arguments.add_arguments, run="bench:run"
    )


def _add_rest(parser: Parser) -> None:
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)


COMMAND = _command()
